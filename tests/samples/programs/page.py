"""The page's Python example, with the address and the token from the environment."""

import os

import requests

model = "gen4.5"
text_prompt = "A cinematic aerial shot of a coastal city at golden hour"
duration = 5
api_url = f"{os.environ['API']}/videos/create"
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['TOKEN']}"}
body = {"model": f"{model}", "text_prompt": f"{text_prompt}", "duration": duration}
response = requests.post(api_url, headers=headers, json=body, timeout=60)
print(response.status_code, response.json()["task"]["taskId"])
