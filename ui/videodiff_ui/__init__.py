"""The app: a Gradio front end over the requests of `videodiff.settings` and the job table of `videodiff.jobs`.

Importing this package takes Gradio's environment variables away before Gradio itself is imported: several of them
(share, server name, allowed paths, analytics) would undo what `server.py` promises.
"""

import os

for _name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[_name]
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
