"""Where the tests find things. They reach no model hub, and skip, with a reason, what needs data that is not there."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    "The top folder of the repository."
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder of real texts and benchmarks: `$FINERWEB_TEST_DATA`, or shared/data beside the repository."
    named = os.environ.get("FINERWEB_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if named and not folder.is_dir():
        pytest.fail(f"FINERWEB_TEST_DATA names {named}, which is no folder")
    if not folder.is_dir():
        pytest.skip("needs real data: set FINERWEB_TEST_DATA to a folder with ner/ and web/")
    return folder
