"""Code that visitors copy: on the page with its own address, and in docs/api.md."""

from __future__ import annotations

ADDRESS = "http://127.0.0.1:7860"
"""Where `python app.py` serves; replaced by the server's own address on the page."""

PYTHON = """\
from gradio_client import Client, handle_file  # pip install gradio_client

client = Client("http://127.0.0.1:7860")
answer = client.predict(handle_file("photo.jpg"), api_name="/predict")
for face in answer["faces"]:
    print(face["number"], face["box"], face["gender"]["label"], face["age_range"]["label"])

batch = client.predict(
    [handle_file("photo.jpg"), handle_file("other.jpg")], api_name="/predict_batch"
)
for entry in batch["pictures"]:
    print(entry["index"], entry["error"] or len(entry["faces"]))
"""

CURL = """\
curl -s -F picture=@photo.jpg http://127.0.0.1:7860/api/v1/predict
curl -s -F pictures=@photo.jpg -F pictures=@other.jpg http://127.0.0.1:7860/api/v1/predict_batch
curl -s -F picture=@face.jpg http://127.0.0.1:7860/api/v1/classify_crop
curl -s http://127.0.0.1:7860/api/v1/model_info
"""

JAVASCRIPT = """\
import { readFile } from "node:fs/promises";
import { Client } from "@gradio/client"; // npm install @gradio/client

const client = await Client.connect("http://127.0.0.1:7860");
const photo = new Blob([await readFile("photo.jpg")]);
const { data } = await client.predict("/predict", { picture: photo });
for (const face of data[0].faces) console.log(face.number, face.box, face.age_range.label);
client.close();
"""

GRADIO_CURL = """\
URL=http://127.0.0.1:7860/gradio_api
IMAGE="data:image/jpeg;base64,$(base64 -w0 face.jpg)"
EVENT=$(printf '{"data": [{"url": "%s"}]}' "$IMAGE" |
  curl -s $URL/call/classify_crop -H 'Content-Type: application/json' -d @- | cut -d'"' -f4)
curl -sN $URL/call/classify_crop/$EVENT
"""

AGENTS = """\
{"mcpServers": {"faceattr": {"url": "http://127.0.0.1:7860/gradio_api/mcp/"}}}
"""
"""What most agents take as the settings of a server of tools."""

AGENT_PYTHON = """\
import asyncio
import base64

from mcp import ClientSession  # pip install "mcp<2"
from mcp.client.streamable_http import streamablehttp_client


async def main() -> None:
    with open("photo.jpg", "rb") as file:
        picture = "data:image/jpeg;base64," + base64.b64encode(file.read()).decode()
    async with (
        streamablehttp_client("http://127.0.0.1:7860/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        answer = await session.call_tool("predict", {"picture": picture})
        print(answer.content[0].text)


asyncio.run(main())
"""

SNIPPETS = {"Python": PYTHON, "curl": CURL, "JavaScript": JAVASCRIPT}
