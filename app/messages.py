"""Sentences of the page, for Python and (`BROWSER`) for its JavaScript; those of errors are in `pruning.errors`."""

from pruning.models.base import gigabytes

TITLE = "PruneScope"
TAGLINE = "Which visual tokens (image patches) a method prunes, and how the answer changes"
READY = "Ready."
PHASES = {
    "load": "Loading the model…",
    "encode": "Encoding the picture…",
    "full": "Answering with the full picture…",
    "prune": "Choosing which visual tokens to keep…",
    "pruned": "Answering with the kept visual tokens…",
    "overlap": "Computing which visual tokens {title} would keep…",
    "compensate": "Captioning what was dropped, and answering again…",
    "plan": "Scoring every head and matrix…",
    "try": "Trying the plan on the model…",
    "head": "Computing what this head attends to…",
}
DOWNLOAD = "Downloading the model: {arrived} of {total} ({share} %)…"
WAITING = "Waiting for the model: {before} before you…"
RANDOM = "Random pruning, seed {done} of {of}…"
RANDOM_DONE = "Random pruning is shown below the answers."
OVERLAPS_DONE = "What other methods would keep is shown under Diagnostics."
RESTARTED = "The worker of this run stopped and was started again."
HELD_UP = "The worker of another run stopped and was started again; yours continues."
STOPPED = "Stopped. Nothing was changed."
FINISHED = "Done in {seconds:.1f} s."
BRING = {True: "or drop or paste it, or several", False: "or drop or paste several, or a video"}  # True: bundled
NEW_PICTURE = "Your picture is in place. Ask a question and press Run."
NEW_PICTURES = "{n} pictures are in place, as one prompt. Ask a question about them and press Run."
NEW_VIDEO = (
    "{n} frames of the video are in place, taken evenly from {first:.1f} to {last:.1f} s. Ask a question about it and "
    "press Run."
)
ONE_AT_A_TIME = "The bundled model was trained on one picture at a time, so it will guess."
OPENED = "A saved run, opened: “{question}”. Nothing was computed; press Run to ask its picture anew."
FROM_LINK = "Opened from a link; its run begins."
STILL_HERE = "The picture before it is still here."
RECORDED = "A recorded run of the bundled model. Press Run to repeat it live."
NOT_RECORDED = "No run of {method} is recorded for this example. Press Run."
RECORDED_ELSEWHERE = "A recorded run of the bundled model. Press Run to ask the model of this page."
MORE = {
    "words": ("Recorded with a caption (ACCM)", "Switch on “Compensate with a caption” and press Run to do it live."),
    "plan": ("Recorded with heads and ranks removed", "Make a plan under Weight pruning to do it live."),
}
RECORDED_MORE = "A recorded run of the bundled model. {advice}"
UNEXPECTED = "Something went wrong on our side (note {code}). Your picture and question are kept; try again."
OUT_OF_MEMORY = (
    "Not enough memory for this run. Try a smaller picture or the bundled model; the next run starts afresh."
)
PLANNED = "The plan is made ({seconds:.1f} s). Nothing is removed until you run with it."
PLAN_OPENED = "The plan was opened and fits the model."
HEAD_ATTENTION_DONE = "What the head attends to is drawn on Explore's picture."
PLAN_SAVED = "Saved {name}. Open plan reads it again, and so does python -m pruning run --plan."
NO_PLAN_YET = "No plan yet. Press Make a plan."
GATES_SHIPPED = "Gates that were trained for the bundled model come with it: choose them as the score."
GATES_MISSING = (
    "Trained gates for the bundled model do not come with this version yet. The command python -m pruning train-heads "
    "trains some; open the file here to see how every gate moved."
)
CAPTION_SWITCH = "Compensate with a caption (ACCM)"
CAPTION_HELP = {
    "": "No trained captioner for this model is here: write the caption yourself, or start with --captioner.",
    "accm": "A small model describes what was dropped in three captions, and a selector takes one.",
    "accm_untrained": "A captioner that was not trained for this reads the picture without the kept visual tokens.",
}
MODEL_HELP = "{parameters} parameters{disk}; memory: {memory}. Licence: {licence}."
METHOD_HELP = "{idea}. Acts {where}."
UNKNOWN_MODEL = "What this budget means in every layer is known once the model is loaded: press Run."
FILE_DECIDES = "The file says how many are kept: {text}."
DECISION_TAKEN = "{name} is taken as the method Imported: {what}. Press Run."
DECISION_HELP = (
    "JSON or NPZ with `kept` (ids of the kept visual tokens), `mask`, or `groups` (a group number for every token; a "
    "group is merged into its mean, negative ones are dropped), for this picture on this model."
)

BROWSER = {  # by the name that `phrase` of `shared.js` takes; what stands in braces is filled in there
    "waiting.idle": "Press Run to ask.",
    "waiting.encode": PHASES["encode"],
    "waiting.full": PHASES["full"],
    "waiting.prune": "Waiting for the full answer…",
    "waiting.pruned": PHASES["pruned"],
    "waiting.compensate": "Captioning what was dropped…",
    "waiting.compensated": "Waiting for the pruned answer…",
    "randomHow": (
        "The same question and keep ratio, with visual tokens drawn at random before the language model, once for each "
        "of 20 seeds. “Same” means the same words as the full answer. A method beats chance here only where it "
        "exceeds this band."
    ),
    "silent": "(the model generated nothing)",
    "cut": "An answer was cut at the limit of new tokens.",
    "onlyHint": "signal of ONLY: point at a word",
    "noRecording": "No recorded run of this method here. Press Run.",
    "recorded": "Recorded run with {near} of {total} visual tokens. Press Run to do it live.",
    "recordedNear": ("Recorded run with {near} of {total} visual tokens. Nearest to {count}. Press Run to do it live."),
    "noScores": "this method gives no scores here",
    "scoresLater": "choose a later stage to show scores",
    "oneReason": "one reason for all here",
    "reasonsLater": "choose a later stage to show reasons",
    "noFile": "That was no picture file. Save the picture first, then drop or paste the file.",
    "fileRefused": (
        "The file could not be taken: pictures and videos may have 20 MB. Save a smaller copy and bring it again."
    ),
    "layersHow": (
        "Counted: visual tokens that entered each layer of the language model during prefill, read off the layers "
        "themselves. Text tokens come on top."
    ),
    "noLink": "Your own picture or plan is in no link: export the record instead.",
    "making": "Making it…",
    "copied": "Copied.",
    "copyYourself": "Select the text below and copy it.",
    "saved": "Saved {name}.",
    "computing": "Computing…",
    "noGain": "pruning took longer than it saved here",
    "countedHow": (
        "Counted: visual tokens, read off the layers of the pruned run; {text} text tokens come on top. Requested: "
        "the number in the request. Passed on: tokens that the last layer receives; merged ones count as one, [CLS] as "
        "one. Distinct: different visual tokens among them. Mean per layer: tokens that a layer receives (input) "
        "or hands to the next (output), over all layers. Papers count budgets in different ways, so all are shown."
    ),
    "estimatedHow": (
        "Estimated: multiply-adds of the language model's prefill, {formula}. Vision tower: {full} full, {pruned} "
        "pruned, not included.{caption}"
    ),
    "captionHow": " With caption: its tokens, captioner and selector are included.",
    "computedHow": "Computed: bytes of keys and values of the prompt, from the model's shape and number format.",
    "measuredHow": (
        "Measured: once, not averaged, on {machine} ({device}, {dtype}, {threads} threads), torch {torch}, "
        "transformers {transformers}, {date}. One measurement on a shared machine is an impression, not a benchmark."
        "{recorded}{earlier}"
    ),
    "recordedDuring": " During the measurement {what} was recorded, which costs a little in every layer.",
    "reused": " Reused with its time from an earlier run on the same machine: {what}.",
    "noGates": "This plan was made without training: no gate moved. {without}",
    "plainKs": (
        "This plan's KS is the plain one, between curves with and without the head; the curves above are mass-weighted."
    ),
    "noHeadGoes": "No head is removed.",
    "gatesShare": "Trained gates come with their own share.",
    "ranksByScore": "A plan ranks by the score.",
    "notInPlan": "This plan has no such values.",
    "chooseHead": "Choose a head to show its spectrum and its two curves.",
    "noSpectra": "This score uses weights only: there are no spectra to show.",
    "noScore": "No head was scored: all of them are kept.",
    "sumsHow": (
        "Parameters of attention and feed-forward in the layers in use. Multiply-adds of one encoding and one prefill: "
        "{tokens}. An estimate says nothing about seconds."
    ),
    "klHere": "KL to the full picture here: pruned {pruned}, with caption {caption}.",
    "klWithout": "KL without a caption: {kl}.",
    "attentionShares": (
        "Mean over the layers: caption {caption} ({perToken} per token), picture {picture} "
        "({perVisual} per visual token)."
    ),
}


def download(arrived: int, total: int) -> str:
    """Return the status line of a download, from bytes that arrived and bytes in all."""
    return DOWNLOAD.format(arrived=gigabytes(arrived), total=gigabytes(total), share=100 * arrived // total)
