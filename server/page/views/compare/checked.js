// What a set-up may be. Links, files, and what an older page has kept come from anywhere: what is no set-up of ours is
// none, rather than a page that can't be drawn any more.
import { isPlain } from "../../core/plain.js";

export const SETTINGS = { system: "", temperature: null, max_tokens: 512, seed: null, tools: null };

const isStep = (step) =>
  typeof step === "string" || (isPlain(step) && Object.keys(step).length === 1 && Object.values(step).every((options) => options === null || isPlain(options)));

/** Whether a value is a list of steps, as the field `alignment.pipeline` takes it. */
export const isSteps = (value) => Array.isArray(value) && value.every(isStep);

/** Whether it is what a column has: `model`, and `alignment` as state.js tells it. */
export const isColumn = (column) =>
  typeof column?.model === "string" && (column.alignment === null || typeof column.alignment === "string" || isSteps(column.alignment));

/** What is wrong with `tools`, or null. */
export function faultOfTools(tools) {
  if (!Array.isArray(tools)) return "A list of tools.";
  return tools.every((tool) => typeof tool?.function?.name === "string") ? null : "Each tool has a function with a name.";
}

/** Settings of the kinds that they have; what is of another kind is as it is by default. */
export function settingsOf(given) {
  const { system, temperature, max_tokens: most, seed, tools } = isPlain(given) ? given : {};
  const number = (value, usual) => (value === null || Number.isFinite(value) ? value : usual);
  return {
    system: typeof system === "string" ? system : SETTINGS.system,
    temperature: number(temperature, SETTINGS.temperature),
    max_tokens: number(most, SETTINGS.max_tokens),
    seed: number(seed, SETTINGS.seed),
    tools: tools && !faultOfTools(tools) ? tools : SETTINGS.tools,
  };
}
