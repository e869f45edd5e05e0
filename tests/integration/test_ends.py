"""How the log tells the ends of work that recorded nothing."""

import pytest
from structlog.testing import capture_logs

from moderation.cases import ImageRef
from moderation.database.connection import Database
from moderation.local import BUCKET
from moderation.settings import Settings
from tests.fakes import ScriptedDetector
from tests.integration.conftest import accepted
from worker.analysis import ANALYZE
from worker.lifecycle import close_station, open_station
from worker.run import run


@pytest.mark.parametrize(
    ("bucket", "patience", "told"),
    [
        pytest.param("elsewhere", 3600, ("info", "released", "bucket_not_read"), id="it is tried again"),
        pytest.param("elsewhere", 0, ("warning", "given_up", "bucket_not_read"), id="it is given up"),
        pytest.param(BUCKET, 3600, ("info", "failed", "image_missing"), id="the image is at fault"),
    ],
)
def test_the_log_tells_a_case_that_is_given_up_from_one_that_is_tried_again(
    settings: Settings, database: Database, bucket: str, patience: float, told: tuple[str, str, str]
) -> None:
    case_id = accepted(database, image=ImageRef(bucket, "not/there.jpg"))
    station = open_station(settings.model_copy(update={"patience_seconds": patience}), ScriptedDetector())

    with capture_logs() as logged:
        run(station, ANALYZE, case_id)
    close_station(station, why="the test ended")

    (line,) = [line for line in logged if line["event"] == "analysis_ended"]
    assert (line["log_level"], line["outcome"], line["code"]) == told
