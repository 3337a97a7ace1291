import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NamedArtifact } from '../contracts/artifact.js';
import type { FineTuneResult } from '../contracts/pipeline.js';
import type { ArtifactStore } from '../store/artifact-store.js';

/** Local paths of what a run has made. */
export interface ArtifactFiles {
  /** PEFT directory. */
  adapter: string;
  /** Hugging Face directory. */
  merged: string;
  /** Directory of GGUF files; left out when the run exports none. */
  gguf?: string;
  /** HTML page. */
  report: string;
}

/** Where a run's results are as files: its published version when that is on this machine, else copies in `directory`. */
export async function artifactFiles({ artifacts }: FineTuneResult, store: ArtifactStore, directory: string): Promise<ArtifactFiles> {
  const gguf = artifacts.gguf?.map(({ file }) => file) ?? [];
  if (artifacts.manifest?.uri.startsWith('file:')) return filesIn(dirname(fileURLToPath(artifacts.manifest.uri)), gguf.length > 0);
  const files = filesIn(directory, gguf.length > 0);
  await fetchAll(store, artifacts.adapter, files.adapter);
  await fetchAll(store, artifacts.merged, files.merged);
  if (files.gguf !== undefined) await fetchAll(store, gguf, files.gguf);
  await store.getFile(artifacts.report.html, files.report);
  return files;
}

const filesIn = (directory: string, hasGguf: boolean): ArtifactFiles => ({
  adapter: join(directory, 'adapter'),
  merged: join(directory, 'merged'),
  ...(hasGguf && { gguf: join(directory, 'gguf') }),
  report: join(directory, 'report.html'),
});

const fetchAll = (store: ArtifactStore, files: NamedArtifact[], directory: string): Promise<unknown> =>
  Promise.all(files.map((file) => store.getFile(file, join(directory, file.name))));
