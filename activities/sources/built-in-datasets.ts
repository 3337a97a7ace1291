import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { SourceError } from './source-error.js';
import { buildWordnetArtifacts } from './wordnet-artifacts.js';

interface BuiltInDataset {
  /** Name in the cache; changes with the content. */
  file: string;
  build(target: string): Promise<void>;
}

/** Datasets made from an installed package. One line each. */
export const builtInDatasets: Readonly<Record<string, BuiltInDataset>> = {
  /** 11,605 man-made things of WordNet 3.1 (WordNet licence): product, category, description. */
  'wordnet-artifacts': { file: 'wordnet-artifacts-3.1.14.jsonl', build: buildWordnetArtifacts },
};

/** Path of the dataset in the cache; made when it is not there. @throws SourceError for an unknown name */
export async function fetchBuiltInDataset(name: string, cacheDirectory: string): Promise<string> {
  const dataset = Object.hasOwn(builtInDatasets, name) ? builtInDatasets[name] : undefined;
  if (!dataset) throw new SourceError(`expected a built-in dataset (${Object.keys(builtInDatasets).join(', ')}), got '${name}'`);
  const path = join(cacheDirectory, 'datasets', dataset.file);
  if (!(await access(path).then(() => true, () => false))) await dataset.build(path);
  return path;
}
