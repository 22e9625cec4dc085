"""What the page says; plain words, no number that is not read from somewhere."""

from __future__ import annotations

import html
import os

from page.limits import Limits
from page.view.snippets import ADDRESS, AGENTS, SNIPPETS

TITLE = "Perceived gender, age and race of every face in a photo: faceattr"

WAITING = """<div class="fa-message fa-empty"><p>Drop in a photo, or click an example: every face
gets its bars here.</p></div>"""


def intro(model: str, revision: str | None) -> str:
    """The head of the page, with links to the model, the code and how to call it.

    Args:
        model: Hub id or name of the weights.
        revision: commit of the Hub repository, None for local weights.
    """
    links = [_tab("Model", "How often it is right"), _tab("Use it", "Call it from your code")]
    if revision:
        links.append(_link(f"https://huggingface.co/{model}/tree/{revision}", "Weights"))
    if space := os.environ.get("SPACE_ID"):
        links.append(_link(f"https://huggingface.co/spaces/{space}/tree/main", "Code"))
    links.append(_tab("Limits", "What it is not for"))
    items = "".join(f"<li>{link}</li>" for link in links)
    return f"""<div class="fa-intro">
<h1>Perceived gender, age and race of every face in a photo</h1>
<p>How FairFace's annotators would most likely have labelled each face, with the probability of
every answer. A measuring tool for picture collections, not a judge of anybody's identity. Pictures
are not stored.</p><ul class="fa-links">{items}</ul></div>"""


def _tab(name: str, words: str) -> str:
    return f'<a href="#" data-tab="{name}">{words}</a>'


def _link(address: str, words: str) -> str:
    return f'<a href="{html.escape(address)}" rel="noopener">{words}</a>'


LIMITS = """
## What the answers are, and what they are not

The classes are those that FairFace's annotators had to choose from when they looked at
photographs: two genders, nine age groups, seven races. An answer says how a face *looked to them*.
It is not anybody's gender identity, age or ethnicity, and the network repeats the annotators'
errors and adds its own.

- **Good for**: describing the make-up of a picture collection in sum; measuring whether other
  systems work equally well for different groups; teaching.
- **Not for**: deciding anything about a person, telling anybody's gender, age or race, watching
  people, or anything where a wrong answer harms somebody.
- **Errors are not spread evenly.** The tab *Model* shows for whom the network errs more often.
  Poor light, make-up, masks, drawings, profiles and small faces make it worse, and its
  probabilities were fitted on clear, cropped photographs.
- **The age is a range**: the fewest neighbouring groups that hold four fifths of the probability.
  Teenagers are often called adults, so "may be under 20" stands where that is at all likely; never
  take such a face for an adult's.
- **"Unsure"** means that the most likely answer lies below the probability at which such answers
  were right as often as was aimed for on held-out pictures. Take it seriously: the two
  likeliest answers are then often both plausible.

## Privacy

- A picture is worked on in the server's memory. An uploaded file is deleted when its request
  reads it, and one that no request uses within two minutes.
- Nothing of a picture or a result is kept, logged, or used for training. The crops, heat maps and
  downloads that you see are in your browser only.
- The camera's picture leaves your browser when you take a photo, or while live answers are on.
- The page loads nothing from third parties and counts no visitors.

## Law

Pictures of people are personal data in many countries: have a reason and a right to use them.
In the European Union, using biometric data to infer an individual's race is a prohibited practice
(AI Act, Article 5(1)(g)); labelling lawfully acquired data sets, for example to measure bias, is
outside that ban. Telling emotion, character or risk from faces is nothing this page does.
This is no legal advice.

## Licences and credit

Code: Apache-2.0. Weights: CC BY 4.0, following FairFace (Kärkkäinen and Joo, WACV 2021), on which
they were trained. Detector: YuNet (MIT) or OpenCV's Haar cascades.
"""


def use_html(limits: Limits, has_tools: bool) -> str:
    """The tab on calling the API; `ADDRESS` stands for the page's own address.

    Args:
        limits: of this server.
        has_tools: whether it serves the endpoints to agents, too.
    """
    snippets = {**SNIPPETS, **({"Agents (Model Context Protocol)": AGENTS} if has_tools else {})}
    blocks = "".join(
        f'<h3>{name}</h3><pre tabindex="0" aria-label="{name} code"><code>{html.escape(code)}'
        "</code></pre>"
        for name, code in snippets.items()
    )
    return (
        '<div class="fa-prose"><h2>Use it from your own code</h2>'
        f"<p>The same answers as on the page, as JSON. This server's address is "
        f"<code>{ADDRESS}</code>.</p>{blocks}"
        "<h3>Limits of this server</h3>"
        f"<p>{limits.max_bytes / 1e6:g} MB and {limits.max_pixels / 1e6:g} megapixels a picture, "
        f"{limits.max_faces} faces a picture, {limits.max_batch} pictures a batch, "
        f"{limits.time_limit:g} seconds a request. When more than {limits.max_waiting} requests "
        'wait, further ones get HTTP 503, "busy, try again".</p>'
        "<p>Endpoints: <code>/predict</code>, <code>/predict_batch</code>, "
        "<code>/classify_crop</code>, <code>/explain</code>, <code>/model_info</code>. "
        "What each takes stands under <em>Use via API</em> at the foot of the page, every field of "
        "an answer in <code>docs/api.md</code> of the code.</p></div>"
    )
