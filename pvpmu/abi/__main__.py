"""``python -m pvpmu.abi``: write the generated files of the checkout in the working directory."""

from pathlib import Path

from pvpmu.abi.files import write_all

write_all(Path.cwd())
