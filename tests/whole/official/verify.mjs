// Asks JavaScript's official library which of the webhooks on stdin are good; prints a list of true and false.
import { readFileSync } from "node:fs";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const isGood = ({ secret, headers, body }) => {
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64"), headers);
    return true;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
};

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(isGood)));
