"""Acts by what an ONNX file says of itself, with ONNX Runtime, NumPy and JSON alone.

Arguments: the file, and an npz of what the environment gives at each step: `observation`, or one
array for each named part, and `reset`, 1 where an episode begins. Prints the actions as JSON, and
the meaning of each.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
properties = session.get_modelmeta().custom_metadata_map
about = {k.removeprefix("slimq."): json.loads(v) for k, v in properties.items()}
assert about["schema_version"] == 1
layout, actions = about["observation"], about["actions"]
stack, dtype = layout["stack"], np.dtype(layout["dtype"])
steps = np.load(sys.argv[2])
chosen, names = [], []
window = np.zeros(layout["shape"], dtype)
for step, begins in enumerate(steps["reset"]):
    if layout["parts"]:
        parts = [steps[part["name"]][step] for part in layout["parts"]]
        observation = np.concatenate([np.ravel(part) for part in parts]).astype(dtype)
    elif stack:
        axis, count = stack["axis"], stack["count"]
        frame = steps["observation"][step].reshape(np.split(window, count, axis)[0].shape)
        before = np.zeros_like(window) if begins else window
        kept = np.split(before, count, axis)[1:]
        observation = window = np.concatenate([*kept, frame.astype(dtype)], axis)
    else:
        observation = steps["observation"][step].astype(dtype)
    signature = about["signature"]
    q_values = session.run([signature["output"]], {signature["input"]: observation[np.newaxis]})[0]
    index = int(q_values[0].argmax())
    chosen.append(actions["start"] + index)
    names.append(actions["names"][index])
assert not [name for name in sys.modules if name.partition(".")[0].startswith("slimq")]
sys.stdout.write(json.dumps({"actions": chosen, "names": names}))
