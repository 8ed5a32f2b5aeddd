/** Whether a value is an object as JSON has them: neither null nor a list. */
export const isPlain = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
