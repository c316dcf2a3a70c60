"""A classifier without a model: its artifact says how it behaves, and pictures are whatever is sent."""

import json
import os
import sys
import time
from pathlib import Path

request = json.load(sys.stdin)
behaviour = Path(request["artifact_dir"], "behaviour").read_text()
if behaviour == "die":
    os._exit(3)
if behaviour == "hang":
    Path(request["artifact_dir"], "pid").write_text(str(os.getpid()))
    time.sleep(1000)
if behaviour == "refuse":
    error = {
        "reason": "INVALID_DATASET",
        "message": "images[1] is no picture",
        "metadata": {"item": "images[1]"},
    }
    json.dump({"error": error}, sys.stdout)
else:
    names = [Path(image).read_text() for image in request["images"]]
    ranks = range(request["top_k"])
    json.dump(
        [[{"label": f"{name}-{rank}", "probability": 0.5} for rank in ranks] for name in names], sys.stdout
    )
