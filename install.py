"""Says what is missing. All that ldznet needs is in the webui already, so nothing is ever installed from here."""

import importlib.util

NEEDED = {
    "torch": "torch",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "PIL": "pillow",
    "cv2": "opencv-python",
}


def main():
    """Look for the packages without importing them: the webui runs this at every start."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"ldznet: {', '.join(missing)} cannot be found in this Python environment, though the webui itself "
            "needs it. Repair the webui's environment: delete its folder venv and start it again."
        )


main()
