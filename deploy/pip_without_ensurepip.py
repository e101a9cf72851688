"""
Put pip into the venv that runs this, where Python came without ensurepip (Debian's python3 without python3-venv).

Takes pip's wheel from PyPI, checks it against the SHA-256 that PyPI tells, and lets it install itself: a wheel is a zip
that Python can import from.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

INDEX = "https://pypi.org/pypi/pip/json"


def main() -> None:
    with urllib.request.urlopen(INDEX, timeout=30) as answer:
        files = json.load(answer)["urls"]
    wheel = next(file for file in files if file["packagetype"] == "bdist_wheel")
    with urllib.request.urlopen(urllib.parse.urljoin(INDEX, wheel["url"]), timeout=60) as answer:  # noqa: S310 - https, named by PyPI
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != wheel["digests"]["sha256"]:
        sys.exit("setup: pip's wheel from PyPI is not what PyPI says it is; try again")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, wheel["filename"])
        path.write_bytes(content)
        subprocess.run([sys.executable, f"{path}/pip", "install", "--no-index", str(path)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
