"""A program written for the upstream: uploads an image, creates a video from it, polls until it is there, downloads it.

It knows nothing of a relay. `API` and `TOKEN` are all that changes between the upstream and the relay.
"""

import base64
import json
import os
import sys
import time

import requests

API = os.environ["API"]
HEADERS = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def main() -> None:
    image = base64.b64decode(PIXEL)
    uploaded = requests.post(
        f"{API}/assets/?name=first.png", data=image, headers=HEADERS | {"Content-Type": "image/png"}, timeout=30
    )
    asset_id = uploaded.json()["assetId"]
    body = {"model": "gen4", "text_prompt": "The pixel comes alive", "duration": 5, "imageAssetId1": asset_id}
    created = requests.post(f"{API}/videos/create", json=body, headers=HEADERS, timeout=30).json()
    task_id = created.get("taskId") or created["task"]["taskId"]
    while True:
        task = requests.get(f"{API}/tasks/{task_id}", headers=HEADERS, timeout=30).json()
        if task["status"] in ("SUCCEEDED", "FAILED"):
            break
        time.sleep(0.1)
    video = requests.get(task["artifacts"][0]["url"], timeout=30).content
    print(json.dumps({"status": task["status"], "type": video[4:8].decode(), "size": len(video)}))
    sys.exit(0 if task["status"] == "SUCCEEDED" else 1)


if __name__ == "__main__":
    main()
