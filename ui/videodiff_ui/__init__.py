"""The app: a Gradio front end over the requests of `videodiff.settings` and the job table of `videodiff.jobs`.

Importing this package takes Gradio's environment variables away before Gradio itself is imported: several of them
(share, server name, allowed paths, analytics) would undo what `server.py` promises. No proxy stands before loopback.
"""

import os

for _name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[_name]
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Gradio asks its own server whether it is there: not by way of a proxy.
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1,localhost,::1"]))
