# Asks Ruby's official library which of the webhooks on stdin are good; prints a list of true and false.
require "json"
require "standardwebhooks"

good = JSON.parse($stdin.read).map do |one|
  StandardWebhooks::Webhook.new(one["secret"]).verify(one["body"].unpack1("m0").force_encoding("UTF-8"), one["headers"])
  true
rescue StandardWebhooks::WebhookVerificationError
  false
end

puts JSON.generate(good)
