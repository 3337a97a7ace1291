import type { AddedToken } from './tokenizer-json.js';

/**
 * Cuts added tokens out of a text and encodes what is between them: for vocabularies whose normalisation or search Hugging Face's
 * library does not do exactly. A normalised text cannot make an added token.
 * @param encodeBetween ids of texts without added tokens
 */
export function segmentedEncoder(added: readonly AddedToken[], encodeBetween: (texts: string[]) => Promise<number[][]>): (texts: string[]) => Promise<number[][]> {
  const ids = new Map(added.map(({ content, id }) => [content, id]));
  // Of tokens that start at one place the longest is meant.
  const alternatives = [...added].sort((a, b) => b.content.length - a.content.length).map(pattern);
  const tokens = alternatives.length > 0 ? new RegExp(alternatives.join('|'), 'gu') : undefined;

  return async (texts) => {
    const between: string[] = [];
    const rows = texts.map((text) => {
      const row: (number | { place: number })[] = [];
      const part = (piece: string): void => void (piece !== '' && row.push({ place: between.push(piece) - 1 }));
      let at = 0;
      for (const match of tokens ? text.matchAll(tokens) : []) {
        part(text.slice(at, match.index));
        row.push(ids.get(match.slice(1).find((content) => content !== undefined)!)!);
        at = match.index + match[0].length;
      }
      part(text.slice(at));
      return row;
    });
    const encoded = await encodeBetween(between);
    return rows.map((row) => row.flatMap((part) => (typeof part === 'number' ? part : encoded[part.place])));
  };
}

/** The token in a group, with the spaces that it swallows around it; a single word has none of a word's characters beside it. */
function pattern({ content, lstrip, rstrip, single_word: single }: AddedToken): string {
  const escaped = content.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
  const [before, after] = single ? ['(?<![\\p{L}\\p{N}_])', '(?![\\p{L}\\p{N}_])'] : ['', ''];
  return `${lstrip ? '\\s*' : ''}${before}(${escaped})${after}${rstrip ? '\\s*' : ''}`;
}
