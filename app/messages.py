"""Sentences that a visitor can read and that belong to no single error."""

from pruning.models.base import gigabytes

TITLE = "PruneScope"
TAGLINE = "Which visual tokens a vision-language model keeps, and what pruning them changes"
READY = "Ready."
PHASES = {
    "load": "Loading the model…",
    "encode": "Encoding the picture…",
    "full": "Answering with all visual tokens…",
    "prune": "Choosing which visual tokens to keep…",
    "pruned": "Answering with the kept visual tokens…",
    "overlap": "Asking {title} what it would keep…",
    "compensate": "Writing a caption of what was dropped, and answering with it…",
    "plan": "Scoring every head and matrix…",
    "try": "Trying the plan on the model…",
    "head": "Recording what this head attends to…",
}
DOWNLOAD = "Downloading the model: {arrived} of {total} ({share} %)…"
WAITING = "Waiting for the model: {before} before you…"
RANDOM = "Random pruning, seed {done} of {of}…"
RANDOM_DONE = "Random pruning is shown below the answers."
OVERLAPS_DONE = "What other methods would keep is shown under Diagnostics."
RESTARTED = "The worker of this run broke off and was started again."
HELD_UP = "The worker of another run broke off and was started again; yours goes on."
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
    "plan": ("Recorded with heads and ranks taken out", "Make a plan under Weight pruning to do it live."),
}
RECORDED_MORE = "A recorded run of the bundled model. {advice}"
UNEXPECTED = "Something went wrong on our side (note {code}). Your picture and question are kept; try again."
OUT_OF_MEMORY = (
    "Not enough memory for this run. Try a smaller picture or the bundled model; the next run starts afresh."
)
PLANNED = "The plan is made ({seconds:.1f} s). Nothing is taken out until you run with it."
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
    "accm_untrained": "A captioner that nobody trained for this is given the picture without the kept visual tokens.",
}
MODEL_HELP = "{parameters} parameters{disk}; memory: {memory}. Licence: {licence}."
METHOD_HELP = "{idea}. Acts {where}."
UNKNOWN_MODEL = "What this means in every layer is known when the model is loaded: press Run."
FILE_DECIDES = "The file says how many stay: {text}."
DECISION_TAKEN = "{name} is taken as the method Imported: {what}. Press Run."
DECISION_HELP = (
    "JSON or NPZ with `kept` (ids of the visual tokens that stay), `mask`, or `groups` (a group number for every "
    "visual token; a group is merged into its mean, negative ones are dropped), for this picture on this model."
)


def download(arrived: int, total: int) -> str:
    """How a download gets on, from bytes."""
    return DOWNLOAD.format(arrived=gigabytes(arrived), total=gigabytes(total), share=100 * arrived // total)
