import type { ReportInput } from '../../contracts/stages.js';

/** A file of the run, as the report lists it. */
export interface ListedFile {
  group: string;
  name: string;
  bytes: number;
  sha256: string;
}

/** Every artifact the run read or made. */
export function listFiles({ model, ingest, format, baseline, train, merge, evaluate }: ReportInput): ListedFile[] {
  const named = (group: string, files: readonly { name: string; bytes: number; sha256: string }[]) =>
    files.map(({ name, bytes, sha256 }): ListedFile => ({ group, name, bytes, sha256 }));
  return [
    ...named('Base model', model.files),
    ...named('Data', [
      { name: 'train rows', ...ingest.train }, { name: 'test rows', ...ingest.test },
      { name: 'train tokens', ...format.train }, { name: 'test tokens', ...format.test }, { name: 'evaluation prompts', ...format.prompts },
    ]),
    ...named('Results', [
      { name: 'training history', ...train.history }, { name: 'answers of the base', ...baseline.answers }, { name: 'answers of the tuned model', ...evaluate.answers },
    ]),
    ...named('Adapter', train.adapter),
    ...named('Merged model', merge.merged),
    ...named('GGUF', (merge.gguf ?? []).map(({ file }) => file)),
  ];
}
