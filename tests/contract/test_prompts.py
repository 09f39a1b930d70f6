"""Prompts are the stock processor's, token for token, wherever a checkpoint keeps its chat template; and
the question is found in them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from PIL import Image

from pruning.engine.run import run
from pruning.errors import ModelUnavailableError, QuestionRejectedError
from pruning.models import load
from pruning.models.chat import SYSTEM_NOTE, TEXT_NOTE, VICUNA_NOTE, open_chat, question_tokens
from pruning.records.run import RunRequest
from support.families import FAMILIES
from support.tiny_models import make_tiny_adapter

QUESTION = "Describe the picture.\nWhat color is the large star?"
CHATML = "<|im_start|>", "<|im_end|>"
MISTRAL = (
    "{% for m in messages %}[INST] {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}"
    "{{ p['text'] }}{% endif %}{% endfor %} [/INST]{% endfor %}"
)
ONEVISION = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
    "{% endif %}{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'text' %}\n{{ p['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif p['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}:"
    "{% else %}: {% endif %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
    "{% elif p['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
INTERNVL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == 'image' %}"
    "<IMG_CONTEXT>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As the checkpoints of each family ship them, with their control tokens.
SHIPPED = {
    "llava_next": (MISTRAL, ()),
    "llava_onevision": (ONEVISION, CHATML),
    "qwen2_5_vl": (QWEN, CHATML),
    "qwen3_vl": (QWEN, CHATML),
    "idefics3": (SMOLVLM, ("<|im_start|>", "<end_of_utterance>")),
    "smolvlm": (SMOLVLM, ("<|im_start|>", "<end_of_utterance>")),
    "internvl": (INTERNVL, CHATML),
}


def with_template(adapter, template, marks=(), *, on="processor"):
    """The adapter with another chat template, on the processor or on its tokenizer, and control tokens for it."""
    if marks:
        adapter.tokenizer.add_special_tokens(
            {"additional_special_tokens": list(marks)}, replace_extra_special_tokens=False
        )
    adapter.processor.chat_template = template if on == "processor" else None
    adapter.tokenizer.chat_template = template if on == "tokenizer" else None
    adapter.chat = open_chat(adapter.processor, "tiny", vicuna=True)
    return adapter


def stock_ids(adapter, picture, question, template=None, content=None):
    """What the library's own processor makes of one turn."""
    parts = [{"type": "image", "image": Image.fromarray(picture)}, {"type": "text", "text": question}]
    out = adapter.processor.apply_chat_template(
        [{"role": "user", "content": content or parts}], chat_template=template, add_generation_prompt=True,
        tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    return out["input_ids"][0].tolist()


def words_of(prompt):
    """The words of the question that the prompt marks, each once, and whether every token lies in its word."""
    mine = prompt.in_question.nonzero()[:, 0].tolist()
    words = [prompt.words[i] for i in mine]
    inside = all(prompt.token_texts[i].strip().lower() in prompt.words[i].lower() for i in mine)
    return [word for word, _ in groupby(words) if word], inside


@pytest.fixture(params=SHIPPED)
def shipped(request):
    template, marks = SHIPPED[request.param]
    return request.param, template, marks, FAMILIES[request.param].make()


@pytest.mark.parametrize("place", ["processor", "tokenizer"])
def test_ids_are_those_of_the_stock_processor(shipped, noise, place):
    _, template, marks, adapter = shipped
    prompt = with_template(adapter, template, marks, on=place).prompt(noise, QUESTION)
    assert prompt.input_ids[0].tolist() == stock_ids(adapter, noise, QUESTION, template)
    assert prompt.notes == ()


def test_words_are_those_of_the_question(shipped, noise):
    """`What` behind `<|vision_end|>` and `picture?` before `<|im_end|>` come without the control tokens."""
    _, template, marks, adapter = shipped
    prompt = with_template(adapter, template, marks).prompt(noise, QUESTION)
    words, inside = words_of(prompt)
    assert words == QUESTION.split()
    assert inside
    assert not any(mark in word for word in prompt.words for mark in marks)


def test_a_template_saved_with_the_tokenizer_alone_is_used(tmp_path, noise):
    """As in folders whose only template lies in tokenizer_config.json, or beside it."""
    adapter = with_template(FAMILIES["qwen2_5_vl"].make(), QWEN, CHATML)
    expected = stock_ids(adapter, noise, QUESTION)
    adapter.model.resize_token_embeddings(len(adapter.tokenizer))
    adapter.model.save_pretrained(tmp_path)
    adapter.processor.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    adapter.tokenizer.chat_template = QWEN
    adapter.tokenizer.save_pretrained(tmp_path / "tokenizer")
    for file in (tmp_path / "tokenizer").iterdir():
        if file.name != "chat_template.jinja":
            file.rename(tmp_path / file.name)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": QWEN}))
    prompt = load(str(tmp_path)).prompt(noise, QUESTION)
    assert prompt.input_ids[0].tolist() == expected
    assert prompt.notes == ()


def test_a_first_token_in_the_template_is_not_added_again(noise):
    adapter = with_template(make_tiny_adapter(), "{{ bos_token }}" + MISTRAL)
    ids = adapter.prompt(noise, QUESTION).input_ids[0].tolist()
    assert ids == stock_ids(adapter, noise, QUESTION)
    assert ids.count(adapter.tokenizer.bos_token_id) == 1


def test_llava_15_without_a_template_gets_its_published_prompt_and_a_note(noise):
    adapter = make_tiny_adapter()
    adapter.processor.chat_template = adapter.tokenizer.chat_template = None
    with pytest.raises(ModelUnavailableError, match=r"without a chat template.*chat_template\.jinja"):
        open_chat(adapter.processor, "tiny")
    adapter.chat = open_chat(adapter.processor, "tiny", vicuna=True)
    prompt = adapter.prompt(noise, QUESTION)
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    expected = adapter.processor(images=Image.fromarray(noise), text=text, return_tensors="pt")["input_ids"]
    assert torch.equal(prompt.input_ids, expected)
    record = run(RunRequest("tiny", "resprune", 0.5, QUESTION, max_new_tokens=2), adapter, noise)
    assert VICUNA_NOTE in record.notes


def test_only_llava_may_lack_a_template():
    for name in SHIPPED:
        adapter = FAMILIES[name].make()
        adapter.processor.chat_template = adapter.tokenizer.chat_template = None
        with pytest.raises(ModelUnavailableError, match="without a chat template"):
            type(adapter)(adapter.model, adapter.processor, "tiny")


TEXT_ONLY = "{% for m in messages %}{{ m['role'] }}: {{ m['content'].strip() }}\n{% endfor %}assistant:"
NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system turn must come first') }}{% endif %}"
    + MISTRAL
)
TEXT_FIRST = (
    "{% for m in messages %}USER: {% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}\n{% endif %}"
    "{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}"
    " ASSISTANT:"
)


def test_a_template_that_reads_text_only_gets_the_placeholder_as_text(noise):
    adapter = with_template(make_tiny_adapter(), TEXT_ONLY)
    prompt = adapter.prompt(noise, QUESTION)
    assert prompt.notes == (TEXT_NOTE,)
    text = f"user: <image>\n{QUESTION}\nassistant:"
    expected = adapter.processor(images=Image.fromarray(noise), text=text, return_tensors="pt")["input_ids"]
    assert torch.equal(prompt.input_ids, expected)
    assert words_of(prompt) == (QUESTION.split(), True)


def test_a_template_that_wants_a_system_turn_gets_one_and_says_so(noise):
    adapter = with_template(make_tiny_adapter(), NEEDS_SYSTEM)
    prompt = adapter.prompt(noise, QUESTION)
    assert prompt.notes == (SYSTEM_NOTE,)
    assert words_of(prompt) == (QUESTION.split(), True)


def test_a_question_before_the_picture_is_found_and_read(noise):
    adapter = with_template(make_tiny_adapter(), TEXT_FIRST)
    prompt = adapter.prompt(noise, QUESTION)
    assert prompt.input_ids[0].tolist() == stock_ids(adapter, noise, QUESTION)
    assert words_of(prompt) == (QUESTION.split(), True)
    assert int(prompt.in_question.nonzero()[-1]) < int(prompt.visual.nonzero()[0])
    request = RunRequest("tiny", "resprune", 0.4, QUESTION, max_new_tokens=2)
    first = run(request, adapter, noise)
    other = run(replace(request, question="How many circles are there?"), adapter, noise)
    assert not (first.steps[0].selection.scores == other.steps[0].selection.scores).all(), "the question counts"
    for method in ("cdpruner", "zspaprune", "fastv", "pyramiddrop", "dart", "ivcprune"):
        run(replace(request, method=method), adapter, noise)
    with pytest.raises(QuestionRejectedError, match="SparseVLM reads what the question attends to"):
        run(replace(request, method="sparsevlm"), adapter, noise)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}", "placeholders"),
        (MISTRAL.replace("{{ p['text'] }}", ""), "leaves the question out"),
        (TEXT_FIRST.replace(" ASSISTANT:", ""), "nothing behind the picture"),
        ("{{ raise_exception('Only for tools') }}", "Only for tools"),
        ("{% if %}", "fails with"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_model_is_opened(template, reason):
    adapter = make_tiny_adapter()
    adapter.processor.chat_template = template
    with pytest.raises(ModelUnavailableError, match=reason):
        type(adapter)(adapter.model, adapter.processor, "tiny")


def test_no_method_goes_on_as_if_there_were_no_question(noise, monkeypatch):
    """A tokenizer without offsets: methods that read the question refuse, all others run."""
    adapter = make_tiny_adapter()
    monkeypatch.setattr(
        "pruning.models.families.base.question_tokens",
        lambda tokenizer, chat, ids, mark: (torch.zeros(len(ids), dtype=torch.bool), [""] * len(ids)),
    )
    request = RunRequest("tiny", "divprune", 0.4, QUESTION, max_new_tokens=2)
    run(request, adapter, noise)
    for method in ("resprune", "cdpruner", "zspaprune", "accm_pruner", "covipal", "meteor", "sparsevlm"):
        with pytest.raises(QuestionRejectedError):
            run(replace(request, method=method), adapter, noise)


def test_a_tokenizer_that_tells_no_offsets_marks_nothing(tiny, noise):
    chat = tiny.chat.render(QUESTION, ["image"])

    class Slow:
        def __call__(self, text, **kwargs):
            raise NotImplementedError

    found, words = question_tokens(Slow(), chat, torch.tensor([1, 2, 3]), 0)
    assert not found.any()
    assert words == ["", "", ""]
