/** One value of an array, as text. */
export interface JsonItem {
  text: string;
  /** The line of the file that it begins on. */
  line: number;
}

/** A mistake in the text of an array, or a text that is none. */
export class JsonArrayError extends Error {
  constructor(readonly line: number, message: string) {
    super(message);
    this.name = 'JsonArrayError';
  }
}

/** One value of the array as text; more is no row. */
const longestItem = 256 << 20;

/** Cuts the text of a JSON array at the commas between its values as it comes, so that no more than one value is held. */
export class JsonArraySplitter {
  /** Where in the text: before the array, before its first value, in it, behind it. */
  #place: 'before' | 'first' | 'inside' | 'behind' = 'before';
  #depth = 0;
  #inString = false;
  #escaped = false;
  #line = 1;
  /** Of the value that is being read: its text so far, and where it began. */
  #text = '';
  #itemLine = 1;

  /** The values that end in a piece of text. */
  push(piece: string): JsonItem[] {
    const items: JsonItem[] = [];
    let from = 0;
    for (let at = 0; at < piece.length; at++) {
      const char = piece[at];
      if (char === '\n') this.#line++;
      if (this.#inString) this.#readString(char);
      else if (this.#place === 'before' || this.#place === 'behind') {
        if (char.trim() === '') continue;
        if (this.#place === 'behind') throw this.#mistake(`${JSON.stringify(char)} after the array`);
        if (char !== '[') throw new JsonArrayError(0, 'no array');
        from = this.#begin('first', at);
      } else if (this.#endsValue(char)) {
        const text = this.#text + piece.slice(from, at);
        const isBlank = text.trim() === '';
        if (isBlank && !(this.#place === 'first' && char === ']')) throw this.#mistake(`nothing before '${char}'`);
        if (!isBlank) items.push({ text, line: this.#itemLine });
        from = this.#begin(char === ']' ? 'behind' : 'inside', at);
      }
    }
    if (this.#place === 'first' || this.#place === 'inside') this.#text += piece.slice(from);
    if (this.#text.length > longestItem) throw new JsonArrayError(this.#itemLine, `values of at most ${longestItem} characters, got a longer one`);
    return items;
  }

  /** @throws JsonArrayError when the array has not ended */
  end(): void {
    if (this.#place !== 'behind') throw this.#mistake(this.#place === 'before' ? 'an empty file' : 'an array without its end');
  }

  #begin(place: 'first' | 'inside' | 'behind', at: number): number {
    this.#place = place;
    this.#text = '';
    this.#itemLine = this.#line;
    return at + 1;
  }

  #readString(char: string): void {
    if (this.#escaped) this.#escaped = false;
    else if (char === '\\') this.#escaped = true;
    else if (char === '"') this.#inString = false;
  }

  #endsValue(char: string): boolean {
    if (char === '"') this.#inString = true;
    else if (char === '{' || char === '[') this.#depth++;
    else if (this.#depth > 0) this.#depth -= char === '}' || char === ']' ? 1 : 0;
    else return char === ',' || char === ']';
    return false;
  }

  #mistake(got: string): JsonArrayError {
    return new JsonArrayError(this.#line, `JSON, got a mistake in it: ${got}`);
  }
}
