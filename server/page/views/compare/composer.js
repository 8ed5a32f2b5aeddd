// Where the next question is written, with what goes along: settings, images.
import { html, useRef, useState } from "../../core/html.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, JsonField, NumberInput, TextArea } from "../../ui/controls.js";
import { toast } from "../../ui/toast.js";
import { faultOfTools } from "./checked.js";
import { busy, send, stopAll } from "./run.js";
import { changeSettings, draft, setup } from "./state.js";

const LARGEST = 8 * 2 ** 20; // bytes of an image

export function Composer({ columns }) {
  const { text, images } = useStore(draft);
  const { settings } = useStore(setup);
  const running = useStore(busy);
  const [open, setOpen] = useState(false);
  const ready = text.trim() !== "" && !running && columns.length > 0;
  const submit = () => {
    if (!ready) return;
    setOpen(false);
    send({ text, images });
  };
  return html`
    <form class="compare-composer" aria-label="Next question" onSubmit=${(event) => { event.preventDefault(); submit(); }}>
      ${open && html`<${Settings} settings=${settings} />`}
      ${images.length > 0 && html`<ul class="compare-images">
        ${images.map((url, i) => html`<li key=${i}><img src=${url} alt=${`Image ${i + 1}`} />
          <${Button} small icon="close" label=${`Remove image ${i + 1}`} onClick=${() => draft.patch({ images: images.filter((_, j) => j !== i) })} /></li>`)}
      </ul>`}
      <textarea id="compare-question" aria-label="Question" rows="2" placeholder="Ask all columns …" value=${text}
        onInput=${(event) => draft.patch({ text: event.target.value })}
        onKeyDown=${(event) => {
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            submit();
          }
        }} />
      <div class="row">
        <${Button} small kind="quiet" icon="sliders" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>${summary(settings)}<//>
        <${Attach} columns=${columns} />
        <span class="push" />
        ${running > 0
          ? html`<${Button} icon="stop" onClick=${stopAll}>Stop all<//>`
          : html`<${Button} kind="primary" type="submit" icon="send" disabled=${!ready}>${columns.length === 1 ? "Ask" : `Ask ${columns.length}`}<//>`}
      </div>
    </form>`;
}

function summary({ system, temperature, max_tokens: most, seed, tools }) {
  const set = [
    system.trim() && "system message",
    temperature !== null && `temperature ${temperature}`,
    most !== null && `${most} tokens`,
    seed !== null && `seed ${seed}`,
    tools?.length && `${tools.length} ${tools.length === 1 ? "tool" : "tools"}`,
  ].filter(Boolean);
  return set.length ? set.join(", ") : "Settings";
}

function Settings({ settings }) {
  return html`
    <div class="compare-settings stack">
      <${TextArea} label="System message" rows="2" value=${settings.system} onValue=${(system) => changeSettings({ system })} />
      <div class="grid">
        <${NumberInput} label="Temperature" placeholder="the model's" value=${settings.temperature} onValue=${(temperature) => changeSettings({ temperature })} />
        <${NumberInput} label="Max tokens" whole placeholder="no limit" value=${settings.max_tokens} onValue=${(most) => changeSettings({ max_tokens: most })} />
        <${NumberInput} label="Seed" whole placeholder="a new one each time" value=${settings.seed} onValue=${(seed) => changeSettings({ seed })} />
      </div>
      <${JsonField} label="Tools" rows="3" value=${settings.tools} check=${faultOfTools} placeholder=${'[{"type": "function", "function": {"name": …}}]'}
        hint="JSON, as the field tools takes it" onValue=${(tools) => changeSettings({ tools })} />
    </div>`;
}

/** Images, where a model may take them. Of an upstream's that is not known: it says so itself then. */
function Attach({ columns }) {
  const input = useRef(null);
  const { models } = useStore(server);
  const never = columns.every(({ model }) => models.find(({ id }) => id === model)?.multimodal === false);
  const label = never ? "None of these models takes images" : "Attach images";
  const add = async (files) => {
    for (const file of files) {
      if (file.size > LARGEST) toast(`${file.name} is larger than 8 MiB`);
      else {
        const url = await asDataUrl(file);
        draft.set((before) => ({ ...before, images: [...before.images, url] }));
      }
    }
  };
  return html`
    <input ref=${input} type="file" accept="image/*" multiple hidden aria-label="Images" onChange=${(event) => {
      add([...event.target.files]);
      event.target.value = "";
    }} />
    <${Button} small kind="quiet" icon="image" label=${label} disabled=${never} onClick=${() => input.current.click()} />`;
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
