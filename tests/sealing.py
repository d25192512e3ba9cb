"""What the tests of damaged run folders share: a folder that is wrong, and was written so."""

from recvae.training import run_folder as checkpoint
from recvae.training import seals


def reseal(folder):
    """Seal a run folder as it is now, with the components of a blend."""
    components = [path.relative_to(folder).as_posix() for path in folder.glob(f"components/*/{seals.SEAL}")]
    checkpoint.seal(folder, *components)


def unseal(folder):
    """Make of a run folder one of the time before seals."""
    for path in [folder, *folder.glob("components/*")]:
        (path / seals.SEAL).unlink(missing_ok=True)
        run = path / checkpoint.RUN
        run.write_text(run.read_text().replace('"sealed": true', '"sealed": false'))
