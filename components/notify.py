"""Tells people of a run that failed, at an address that takes `{"text": …}`, as Slack and Mattermost do."""

from __future__ import annotations

import json
import os
import urllib.request

VARIABLE = "SEGMODELS_NOTIFY_URL"
SECONDS = 10


def tell(text: str) -> None:
    """Send a sentence to the address in `SEGMODELS_NOTIFY_URL`; without one, and where that fails, nothing is lost."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    body = json.dumps({"text": text}).encode()
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=SECONDS).close()
        print("told whom it concerns", flush=True)
    except (OSError, ValueError) as error:
        # Not the address: it is as good as a password.
        print(f"nobody could be told: {VARIABLE} does not take it ({type(error).__name__})", flush=True)
