/** Text with `{column}` placeholders; `{{` and `}}` stand for the braces themselves. */
export type TemplatePart = { text: string } | { column: string };

export type ParsedTemplate = { parts: TemplatePart[] } | { problem: string };

/** Splits a template into text and placeholders. A lone or empty pair of braces is a problem, told with its place. */
export function parseTemplate(template: string): ParsedTemplate {
  const parts: TemplatePart[] = [];
  let text = '';
  for (let i = 0; i < template.length; i++) {
    const character = template[i];
    if (character !== '{' && character !== '}') {
      text += character;
    } else if (template[i + 1] === character) {
      text += character;
      i++;
    } else {
      const close = character === '{' ? template.indexOf('}', i) : -1;
      const column = template.slice(i + 1, close);
      if (close === -1 || column === '' || column.includes('{')) {
        return { problem: `expected {column}, or ${character}${character} for a brace, got ${excerpt(template, i)} at character ${i + 1}` };
      }
      if (text !== '') parts.push({ text });
      parts.push({ column });
      text = '';
      i = close;
    }
  }
  if (text !== '') parts.push({ text });
  return { parts };
}

/** The columns that a template names, each once; none when it cannot be parsed. */
export function placeholdersOf(template: string): string[] {
  const parsed = parseTemplate(template);
  if ('problem' in parsed) return [];
  return [...new Set(parsed.parts.flatMap((part) => ('column' in part ? [part.column] : [])))];
}

/** Fills parsed parts from a row. A column that the row lacks is a caller's mistake: check with `templateProblems` first. */
export function fillTemplate(parts: readonly TemplatePart[], row: Readonly<Record<string, string>>): string {
  return parts
    .map((part) => {
      if ('text' in part) return part.text;
      if (!Object.hasOwn(row, part.column)) throw new RangeError(`row: expected a column ${part.column}, got ${Object.keys(row).join(', ')}`);
      return row[part.column];
    })
    .join('');
}

const excerpt = (template: string, at: number): string => JSON.stringify(template.slice(at, at + 12) + (template.length > at + 12 ? '…' : ''));
