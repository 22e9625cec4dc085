"""Every fault that the tests inject into training, and how it must end.

    python -m tests.faults

writes them into docs/training.md; tests/test_faults.py holds the two together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from train.tables import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"


class Fault(NamedTuple):
    """One injected fault.

    Attributes:
        what: breaks.
        end: that it must come to.
        test: `module::function` that injects it.
    """

    what: str
    end: str
    test: str


RESUMES = "goes on exactly"
NAMED = "refused, and named; `--from-previous` goes on exactly from the checkpoint before"
REFUSED = "refused; what differs is named"
KEPT = "the run ends and says what to do; " + RESUMES

WRITE = "test_faults::test_a_failed_write_leaves_the_last_good_checkpoint"
DAMAGE = "test_faults::test_a_damaged_checkpoint_is_named_and_the_one_before_is_used_when_asked"
CHECKPOINTS = (
    Fault("The disk is full while a checkpoint is written", KEPT, WRITE),
    Fault("The disk fails while a checkpoint is written", KEPT, WRITE),
    Fault("The finished checkpoint cannot be renamed", KEPT, WRITE),
    Fault(
        "A kill left half a checkpoint under its temporary name",
        RESUMES,
        "test_faults::test_a_file_left_by_a_killed_write_is_no_checkpoint",
    ),
    Fault("A bit of the newest checkpoint flipped", NAMED, DAMAGE),
    Fault("Its digest is another", NAMED, DAMAGE),
    Fault("Its end is cut off", NAMED, DAMAGE),
    Fault("It is empty", NAMED, DAMAGE),
    Fault(
        "A file of another program stands in its place",
        "refused, and named",
        "test_training::test_a_damaged_checkpoint_is_named",
    ),
    Fault(
        "All checkpoints are damaged",
        "refused: no sound checkpoint is left",
        "test_faults::test_without_a_sound_checkpoint_it_says_so",
    ),
    Fault(
        "There is no checkpoint",
        "refused: start without `--resume`",
        "test_training::test_resuming_nothing_says_so",
    ),
    Fault(
        "Another recipe or seed",
        REFUSED,
        "test_training::test_a_changed_recipe_or_seed_is_not_resumed",
    ),
    Fault(
        "Another revision of the data set",
        REFUSED,
        "test_faults::test_another_revision_of_the_data_is_not_resumed",
    ),
    Fault("Another teacher", REFUSED, "test_training::test_another_teacher_is_not_resumed"),
    Fault(
        "Another precision", REFUSED, "test_training::test_each_precision_trains_and_is_recorded"
    ),
    Fault(
        "Another number of processes",
        REFUSED,
        "test_parallel::test_a_run_of_two_processes_is_not_resumed_by_one",
    ),
)
RUNS = (
    Fault(
        "Two runs in one folder",
        "the second is refused",
        "test_faults::test_a_second_run_in_the_same_folder_is_refused",
    ),
    Fault(
        "The folder holds a run, and `--resume` is missing",
        "refused: nothing is overwritten",
        "test_training::test_a_folder_that_holds_a_run_is_not_overwritten",
    ),
    Fault(
        "A run was killed while it held the folder",
        "the next one may use it",
        "test_faults::test_a_killed_run_locks_nothing",
    ),
    Fault(
        "Ctrl-C",
        f"the step ends, a checkpoint is written; {RESUMES}",
        "test_faults::test_ctrl_c_saves_and_goes_on_exactly",
    ),
    Fault(
        "Ctrl-C twice",
        "ends at once",
        "test_faults::test_each_signal_is_collected_once_and_the_same_again_ends_at_once",
    ),
    Fault(
        "SIGTERM",
        f"the step ends, a checkpoint is written; {RESUMES}",
        "test_training::test_sigterm_saves_and_resuming_equals_uninterrupted",
    ),
    Fault(
        "SIGKILL in mid-epoch",
        RESUMES,
        "test_training::test_killed_in_mid_epoch_and_resumed_equals_uninterrupted",
    ),
    Fault(
        "An exception in mid-step",
        RESUMES,
        "test_faults::test_interrupted_in_mid_step_it_goes_on_from_the_last_checkpoint",
    ),
    Fault(
        "The loss is not a number",
        "the run ends and says where",
        "test_training::test_a_loss_that_is_not_finite_stops_with_its_place",
    ),
    Fault(
        "A gradient is infinite",
        "the run ends; the weights are those before the step",
        "test_training::test_a_gradient_that_is_not_finite_never_reaches_the_weights",
    ),
)
STREAM = (
    Fault(
        "A shard fails to open twice",
        "it is tried again with growing waits; nothing changes",
        "test_faults::test_a_shard_that_opens_at_the_third_try_changes_nothing",
    ),
    Fault(
        "A shard never opens",
        f"a checkpoint is written, the run ends and names the shard; {RESUMES}",
        "test_faults::test_a_shard_that_never_opens_ends_the_run_which_then_goes_on",
    ),
    Fault(
        "A shard is gone",
        "the run ends and names the shard",
        "test_faults::test_a_shard_that_vanished_is_named",
    ),
    Fault(
        "The connection is reset in the middle of a shard",
        "the run ends and says after how many rows",
        "test_faults::test_a_shard_that_breaks_off_says_where",
    ),
    Fault(
        "A shard's end is cut off",
        "the run ends and names the shard",
        "test_faults::test_a_damaged_shard_is_named",
    ),
    Fault(
        "A shard holds more or fewer rows than counted",
        "the run ends and names the shard",
        "test_order::test_another_number_of_rows_than_counted_is_an_error",
    ),
    Fault(
        "Some rows do not decode",
        "they are counted, named and left out; other rows' pictures stay the same",
        "test_faults::test_rows_that_do_not_decode_are_named_counted_and_left_out",
    ),
    Fault(
        "More rows do not decode than `--max-skipped`",
        "the run ends and names them",
        "test_faults::test_more_damaged_rows_than_allowed_end_the_run",
    ),
    Fault(
        "No row of a batch decodes",
        "the run ends and names them",
        "test_faults::test_a_damaged_row_changes_no_other_rows_picture",
    ),
    Fault(
        "A row has no label",
        "the run ends and names the task",
        "test_samples::test_a_row_without_a_label_is_refused",
    ),
    Fault(
        "A picture's name is no number, so the holdout is unknown",
        "the run ends and names the picture",
        "test_samples::test_a_file_name_that_is_no_number_is_refused",
    ),
    Fault(
        "The folder is no data set",
        "refused, with the layout that was expected",
        "test_samples::test_a_folder_that_is_no_data_set_is_refused",
    ),
)
FAULTS = CHECKPOINTS + RUNS + STREAM

BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->\n"


def section() -> str:
    """The list for docs/training.md."""
    groups = {"Checkpoint": CHECKPOINTS, "Run": RUNS, "Stream of rows": STREAM}
    tables = []
    for name, faults in groups.items():
        rows = [f"| {fault.what} | {fault.end} |" for fault in faults]
        tables.append("\n".join([f"| {name} | How it ends |", "| :-- | :-- |", *rows, ""]))
    return "\n" + "\n".join(tables) + "\n"


def with_section(page: str) -> str:
    """The page with the present list between its marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + section() + END + rest.partition(END)[2]


if __name__ == "__main__":
    write_text(PAGE, with_section(PAGE.read_text(encoding="utf-8")))
    sys.exit(0)
