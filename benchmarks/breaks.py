"""Breaks each thing that a correct distillation gets right, once, in a copy of the project, and sees its test fail.

    python benchmarks/breaks.py            # writes docs/right.md
    python benchmarks/breaks.py WORDS      # those alone whose point has the words; the others' lines stay as they are

A break that no test notices ends this with status 1. The points are those of the project's field notes, section 2.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Break:
    point: str
    file: str
    old: str
    new: str
    test: str  # a file and a test's name


BREAKS = [
    Break("1 the soft loss is multiplied by T squared", "search/trial/losses.py",
          'reduction="sum") * temperature**2', 'reduction="sum")', "test_losses.py::test_soft_loss_by_hand"),
    Break("1 both sides have the temperature", "search/trial/losses.py",
          "F.log_softmax(teacher_BC.float() / temperature", "F.log_softmax(teacher_BC.float()",
          "test_losses.py::test_soft_loss_by_hand"),
    Break("2 sum over classes, mean over rows", "search/trial/losses.py",
          "return total / _count(student_BC, num_valid)", "return total / student_BC.numel()",
          "test_losses.py::test_soft_loss_sums_over_classes_and_means_over_rows"),
    Break("3 padding is masked", "search/trial/forward.py",
          "attn_mask=mask,", "attn_mask=None,", "test_forward.py::test_the_short_pass_is_the_stock_pass"),
    Break("3 padding is masked where attention is written out", "search/trial/forward.py",
          "scores_BAQT + torch.zeros(mask.shape).masked_fill(~mask, -math.inf)", "scores_BAQT.float()",
          "test_forward.py::test_attention_in_bf16_is_the_fused_one_to_its_rounding"),
    Break("3 padding is masked in the losses on hidden states", "search/trial/hidden_losses.py",
          "torch.where(there, values_BT, values_BT.new_zeros(()))", "values_BT",
          "test_hidden.py::test_padding_has_no_part_and_parts_add_up"),
    Break("3 padding is no key of a relation", "search/trial/hidden_losses.py",
          ".masked_fill(~mask_BT.bool()[:, None, None, :], MASKED)", "",
          "test_hidden.py::test_relations_by_hand"),
    Break("6 hidden_states begin with the embeddings", "spaces/matching.py",
          "pairs = [(index + 1, layer + 1) for", "pairs = [(index + 1, layer) for",
          "test_hidden.py::test_a_copy_of_the_teacher_has_nothing_to_learn"),
    Break("8 a cut vocabulary's states are of the same pieces", "search/trial/states.py",
          "self._kept[batch.ids_BT]", "batch.ids_BT",
          "test_hidden.py::test_the_teacher_reads_a_cut_vocabularys_pieces"),
    Break("12 the hidden share takes from the others", "search/trial/losses.py",
          "hidden_share * hidden + (1 - hidden_share) * loss", "hidden_share * hidden + loss",
          "test_losses.py::test_the_shares_sum_to_one"),
    Break("16 a loss on tokens divides by the whole batch's", "search/trial/loop.py",
          "int(lengths[rows].sum())", "int(lengths[mine].sum())",
          "test_training.py::test_two_workers_follow_the_curve_of_one"),
    Break("4 ignored labels gate the loss", "search/trial/losses.py",
          "int((labels_B != -100).sum())", "len(labels_B)", "test_losses.py::test_hard_loss_by_hand"),
    Break("4 an empty batch gives 0, not NaN", "search/trial/losses.py",
          "    return max(1, len(rows)", "    return max(0, len(rows)",
          "test_losses.py::test_nothing_valid_is_no_loss_and_no_nan"),
    Break("4 texts without labels teach by the soft loss alone", "search/trial/losses.py",
          "num_valid if num_labelled is None else num_labelled", "num_valid",
          "test_augment.py::test_rows_without_labels_count_in_the_soft_loss_alone"),
    Break("5 the teacher is in eval mode", "search/trial/evaluate.py",
          "classifier(model.to(where)).eval()", "classifier(model.to(where)).train()",
          "test_training.py::test_the_teacher_reads_in_eval_mode"),
    Break("6 layers are the ones named", "search/trial/start/initialise.py",
          "source.layer.format(index=layer)", "source.layer.format(index=max(layer - 1, 0))",
          "test_start.py::test_any_depth_starts_from_the_layers_named"),
    Break("7 token types reach the model", "search/trial/forward.py",
          "token_type_ids=types_BT)", "token_type_ids=types_BT * 0)", "test_forward.py::test_the_short_pass_is_the_stock_pass"),
    Break("7 token type 0 is kept where a student has none", "search/trial/start/initialise.py",
          "positions = positions + types[0]", "pass", "test_start.py::test_distilbert_starts_as_its_teacher_up_to_the_head"),
    Break("8 a cut vocabulary is the same pieces", "search/trial/start/initialise.py",
          "[torch.from_numpy(vocabulary.kept).long()]", "[: len(vocabulary.kept)]",
          "test_start.py::test_the_used_vocabulary_loses_nothing_on_training_text"),
    Break("8 a piece that others are merged from is kept", "search/trial/pieces.py",
          "waiting += self.merged_from.get(piece, [])", "pass",
          "test_pieces.py::test_text_whose_pieces_are_kept_is_split_as_before"),
    Break("8 the least likely piece is kept", "search/trial/pieces.py",
          "return {least} | super()", "return super()", "test_pieces.py::test_an_unknown_character_is_as_unlikely_as_before"),
    Break("9 factorised embeddings start near the teacher's", "search/trial/start/factorise.py",
          "argsort(descending=True)", "argsort()",
          "test_start.py::test_a_factorised_start_is_near_and_nearer_the_larger_its_rank"),
    Break("9 positions have their part in the factorised embeddings", "search/trial/start/factorise.py",
          "kept_MH.T @ kept_MH", "words_MH.T @ words_MH",
          "test_start.py::test_positions_have_their_part_in_the_subspace_where_texts_reach_them"),
    Break("9 a masked-LM head of another rank starts near the teacher's", "search/trial/start/factorise.py",
          "scale + LINEAR_AT", "scale - LINEAR_AT",
          "test_masked.py::test_a_student_of_a_smaller_rank_starts_near_its_teacher"),
    Break("10 sizes are counted exactly", "spaces/families/bert.py",
          '| linear("bert.pooler.dense", width, width)', "", "test_students.py::test_arithmetic_knows_the_built_model"),
    Break("11 a number has no temperature", "search/trial/losses.py",
          "return (student_B1.float() - teacher_B1.float()).square().sum()",
          "return ((student_B1.float() - teacher_B1.float()) / temperature).square().sum()",
          "test_tasks.py::test_the_loss_of_a_number_by_hand"),
    Break("12 shares sum to 1", "search/trial/losses.py",
          "loss = loss + (1 - soft_share) *", "loss = loss +", "test_losses.py::test_the_shares_sum_to_one"),
    Break("13 without distillation all else is the same", "spaces/trial.py",
          '{"soft_share": 0.0, "hidden_share": 0.0}', '{"soft_share": 0.0, "hidden_share": 0.0, "initialise": "random"}',
          "test_hidden.py::test_without_distillation_the_teacher_has_no_part"),
    Break("14 what is chosen is chosen on validation", "search/results/students.py",
          "share_on_validation=", "share_on_validation=None and ",
          "test_results.py::test_the_smallest_within_three_percent_is_chosen_on_validation"),
    Break("15 a word is read at its first piece", "search/trial/places.py",
          "for piece in range(len(row) - 1, -1, -1):", "for piece in range(len(row)):",
          "test_tags.py::test_a_word_is_read_at_its_first_piece"),
    Break("4 ignored words gate the soft loss too", "search/trial/places.py",
          "at=np.where(left_out, NOWHERE, self.at)", "at=np.where(left_out, self.at, self.at)",
          "test_tags.py::test_an_ignored_label_gates_every_loss"),
    Break("15 entities are counted, not words", "search/trial/metrics.py",
          "if kind and (kinds[tag] != kind or begins[tag] or at != row):", "if kind:",
          "test_entities.py::test_entities_by_hand"),
    Break("15 an entity ends with its text", "search/trial/metrics.py",
          " or at != row):", "):", "test_entities.py::test_an_entity_ends_with_its_text"),
    Break("15 question and padding have no part in an answer's loss", "search/trial/batches.py",
          "NEVER = -1e4", "NEVER = 0.0",
          "test_answer_losses.py::test_padding_the_question_and_other_rows_have_no_part"),
    Break("15 start and end are two heads", "search/trial/batches.py",
          "[places_P.to(outputs.device), side]", "[places_P.to(outputs.device), 0]",
          "test_answer_losses.py::test_gradient_only_where_a_word_starts_or_ends"),
    Break("15 windows of a long context share a stride", "search/study/questions.py",
          "min(stride, room // 2)", "0", "test_questions.py::test_a_context_in_windows"),
    Break("15 an answer is of one window", "search/trial/answers.py",
          "row_W[:-more] == row_W[more:]", "row_W[:-more] == row_W[:-more]", "test_answers.py::test_the_best_span"),
    Break("4 masked pieces alone are told", "search/trial/loop.py",
          "outputs = tell(batch.read(logits))", "outputs = tell(logits.flatten(0, 1)[: len(asked.pieces_P)])",
          "test_masked.py::test_the_loss_is_of_masked_pieces_alone"),
    Break("4 special pieces are never masked", "search/trial/places.py",
          "at = 1 + rng.choice(told, count, replace=False)", "at = rng.choice(told, count, replace=False)",
          "test_masked.py::test_held_out_texts_are_masked_once_and_for_all"),
    Break("4 nor is the one between two texts", "search/trial/places.py",
          "np.where(at >= second - 1, at + 1, at)", "at", "test_sentence_order.py::test_no_special_piece_is_masked_in_pairs"),
    Break("4 masks are drawn anew in each epoch", "search/trial/masking.py",
          "default_rng([seed, epoch, row])", "default_rng([seed, row])",
          "test_masked.py::test_masks_of_training_follow_from_seed_epoch_and_row"),
    Break("5 the teacher reads the same masks", "search/trial/loop.py",
          "else teacher_pieces(batch)", "else teacher_pieces(padded(tokens, part, pad_id))",
          "test_masked.py::test_the_loss_is_of_masked_pieces_alone"),
    Break("7 swapped texts have their own token types", "search/trial/masking.py",
          "types_BT[line, :second], types_BT[line, second:length] = 0, 1", "pass",
          "test_sentence_order.py::test_half_the_rows_are_swapped_and_nothing_is_lost"),
    Break("6 a second step starts from its own layers", "search/trial/start/begun.py",
          "spans(shape, range(shape.depth))]", "spans(shape, [0] * shape.depth)]",
          "test_begun.py::test_a_student_of_its_shape_starts_from_it"),
    Break("16 losses divide by the whole batch's count", "search/trial/loop.py",
          "num_valid=num_compared(tokens, rows, target)", "num_valid=num_compared(tokens, mine, target)",
          "test_training.py::test_two_workers_follow_the_curve_of_one"),
    Break("17 the floor learns from the labels", "search/trial/floor.py",
          "fit(features, labels)", "fit(features, labels[::-1])", "test_scores.py::test_floors_of_the_tiny_task"),
]  # fmt: skip


def main() -> None:
    words, unseen = " ".join(sys.argv[1:]), []
    page = ROOT / "docs" / "right.md"
    told = [line for line in page.read_text().splitlines() if line.startswith("| ")] if words else []
    lines = {line.split("|")[1].strip(): line for line in told[1:]}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )
        for name in filter(None, names):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
        for entry in (entry for entry in BREAKS if words in entry.point):
            path = copy / entry.file
            whole = path.read_text()
            assert entry.old in whole, f"{entry.file} no longer holds {entry.old!r}"
            path.write_text(whole.replace(entry.old, entry.new))
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{entry.test}"]
            environment = {"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin", "HOME": folder}
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
            path.write_text(whole)
            found = [line.strip() for line in done.stdout.splitlines() if line.startswith("E  ")]
            seen = done.returncode == 1 and bool(found)
            said = f"`{found[0].removeprefix('E').strip().replace('|', '/')[:110]}`" if seen else "**not noticed**"
            print(f"{'seen  ' if seen else 'UNSEEN'} {entry.point}: {said}", flush=True)
            lines[entry.point] = f"| {entry.point} | `{entry.test}` | {said} |"
            unseen += [] if seen else [entry.point]
    head = "# Right\n\nPoints that a correct distillation gets right, the test that holds it, and what that test said when\n"
    head += "the point was broken once on purpose. Made by `python benchmarks/breaks.py`.\n\n"
    head += "| point | test | what breaking it did |\n|---|---|---|\n"
    page.write_text(head + "".join(f"{lines[entry.point]}\n" for entry in BREAKS if entry.point in lines))
    sys.exit(1 if unseen else 0)


if __name__ == "__main__":
    main()
