"""Everything that must pass: python -m tests [pytest's own arguments]."""

import subprocess
import sys

CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("pytest", "-n", "2"),
)


def main():
    for check in CHECKS:
        extra = sys.argv[1:] if check[0] == "pytest" else []
        command = [sys.executable, "-m", *check, *extra]
        print("$ python -m", " ".join([*check, *extra]), flush=True)
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
