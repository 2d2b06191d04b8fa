#!/bin/sh
# The page's curl example, with the address and the token from the environment.
curl -s -w ' %{http_code}' -H "Accept: application/json" \
     -H "Content-Type: application/json" \
     -H "Authorization: Bearer $TOKEN" \
     -X POST "$API/videos/create" \
     -d '{"model": "gen4.5", "text_prompt": "A cinematic aerial shot of a coastal city at golden hour", "duration": 5}'
