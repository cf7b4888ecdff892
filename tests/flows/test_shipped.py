import subprocess
import sys

from flows.shipped import PACKAGES, SERVED, shipped_code

SCRIPT = "import served_model, data, vae_engine; print(data.__file__, vae_engine.__file__)"


def test_only_modules_travel_and_they_are_enough() -> None:
    """Bundled data would be copied with every version of every model."""
    with shipped_code() as folder:
        files = [path for path in folder.rglob("*") if path.is_file()]
        found = subprocess.run(
            [sys.executable, "-B", "-c", SCRIPT],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )

        assert {path.suffix for path in files} == {".py"}
        assert {path.name for path in folder.iterdir()} == {SERVED, *PACKAGES}
        assert found.returncode == 0, found.stderr
        assert found.stdout.count(str(folder)) == len(PACKAGES)
    assert not folder.exists()
