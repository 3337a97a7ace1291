import { FormatError } from './format-error.js';
import type { SentencePieceModel } from './sentencepiece-model.js';
import { space } from './tokenizer-json.js';

/**
 * SentencePiece's own normalisation (normalizer.cc): the longest rule that matches at each place, then spaces: cut at both ends
 * and made single, one put in front, all written as `▁`, as the model says.
 */
export function sentencePieceNormalizer(model: Pick<SentencePieceModel, 'path' | 'charsmap' | 'addsDummyPrefix' | 'removesExtraWhitespaces'>, addPrefixSpace = true): (text: string) => string {
  const { addsDummyPrefix, removesExtraWhitespaces: single } = model;
  const rules = model.charsmap.length > 0 ? charsmapRules(model) : (text: string) => text;
  return (text) => {
    let normal = rules(text);
    if (single) normal = normal.replace(/^ +/, '').replace(/ {2,}/g, ' ');
    if (normal === '') return '';
    normal = (addsDummyPrefix && addPrefixSpace ? space : '') + normal.replaceAll(' ', space);
    return single ? normal.replace(trailingSpaces, '') : normal;
  };
}

const trailingSpaces = new RegExp(`${space}+$`);

/**
 * Applies the compiled rules: a double-array trie (https://github.com/s-yata/darts-clone) from UTF-8 to places in a list of
 * replacements that end with a zero byte. What no rule matches stays, character by character.
 */
function charsmapRules({ charsmap, path }: Pick<SentencePieceModel, 'charsmap' | 'path'>): (text: string) => string {
  const trieBytes = charsmap.length >= 4 ? charsmap.readUInt32LE(0) : 0;
  if (trieBytes === 0 || trieBytes % 4 !== 0 || 4 + trieBytes > charsmap.length) throw new FormatError('bad_header', path, `precompiled_charsmap: expected a trie and its texts, got ${charsmap.length} bytes`);
  const units = Uint32Array.from({ length: trieBytes / 4 }, (_, i) => charsmap.readUInt32LE(4 + 4 * i));
  const replacements = charsmap.subarray(4 + trieBytes);
  const offset = (unit: number) => (unit >>> 10) << ((unit & 0x200) >>> 6);
  const replacement = (start: number): string => replacements.toString('utf8', start, replacements.indexOf(0, start));

  /** Length in bytes of the longest rule at `at` and the place of its replacement. */
  const longestRule = (bytes: Buffer, at: number): [length: number, place: number] | undefined => {
    let found: [number, number] | undefined;
    let node = offset(units[0]);
    for (let i = at; i < bytes.length; i++) {
      node ^= bytes[i];
      const unit = units[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== bytes[i]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) found = [i + 1 - at, units[node] & 0x7fffffff];
    }
    return found;
  };

  return (text) => {
    const bytes = Buffer.from(text);
    let normal = '';
    let kept = 0;
    for (let at = 0; at < bytes.length; ) {
      const rule = longestRule(bytes, at);
      if (rule) {
        normal += bytes.toString('utf8', kept, at) + replacement(rule[1]);
        at += rule[0];
        kept = at;
      } else {
        do at++; while ((bytes[at] & 0xc0) === 0x80); // to the next character
      }
    }
    return normal + bytes.toString('utf8', kept);
  };
}
