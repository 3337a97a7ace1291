/** What chat templates set around turns: `<|im_end|>`, `</s>`, `[/INST]`. */
const marker = /(<\|[^|\s]*\|>|<\/?s>|\[\/?[A-Z_]{2,}\])/;

/** What remains of texts without the words and markers of turns that all of them begin and end with; of a single text, or equal ones, everything. */
export function distinctPart(texts: readonly string[]): string[] {
  if (texts.length === 0) return [];
  const words = texts.map((text) => text.split(marker).flatMap((part) => part.match(/\s*\S+/g) ?? []));
  const shortest = Math.min(...words.map(({ length }) => length));
  let start = 0;
  while (start < shortest && words.every((list) => list[start] === words[0][start])) start++;
  let end = 0;
  while (end < shortest - start && words.every((list) => list.at(-1 - end) === words[0].at(-1 - end))) end++;
  return words.map((list, i) => list.slice(start, list.length - end).join('').trim() || texts[i].trim());
}
