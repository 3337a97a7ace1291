import { printable } from './printable.js';

/* Texts of a Markdown document. */

/** A table; cells are Markdown already. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.map((text) => text.replace(/\|/g, '\\|')).join(' | ')} |`).join('\n');

/** Text of the user's as one line that Markdown leaves as it is. */
export const cell = (text: string): string => printable(text.replace(/\s+/g, ' ').trim()).replace(/[\\`*_{}[\]<>#|]/g, '\\$&');

/** Code in a line, delimited by more backticks than the text has in a row. */
export function inline(text: string): string {
  const ticks = '`'.repeat(longestRun(text) + 1);
  return ticks.length === 1 ? `\`${text}\`` : `${ticks} ${text} ${ticks}`;
}

/** A block of code, delimited by more backticks than it has in a row. */
export function fence(text: string, language = ''): string {
  const ticks = '`'.repeat(Math.max(3, longestRun(text) + 1));
  return `${ticks}${language}\n${printable(text)}\n${ticks}`;
}

const longestRun = (text: string): number => Math.max(0, ...(text.match(/`+/g) ?? []).map(({ length }) => length));
