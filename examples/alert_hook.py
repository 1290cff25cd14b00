"""A hook for alerts: each goes to a chat's webhook (Slack, Mattermost, Teams) as a line of text.

SAE_CONCORD_ALERT_HOOK=examples.alert_hook:post ALERT_WEBHOOK=https://... make ui
"""

import json
import os
import urllib.request

from pipelines.alert_hooks import Alert


def post(alert: Alert) -> None:
    """Post one alert."""
    body = json.dumps({"text": f"{alert}\n{alert.url}"}).encode()
    request = urllib.request.Request(os.environ["ALERT_WEBHOOK"], body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()
