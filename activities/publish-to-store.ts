import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ArtifactRef, NamedArtifact } from '../contracts/artifact.js';
import type { ArtifactStore } from '../store/artifact-store.js';
import { sha256 } from '../store/digest.js';
import type { StageContext } from './stage.js';

/** What `<version>/manifest.json` holds: nothing that differs between two publications of the same files. */
interface Manifest {
  name: string;
  version: string;
  files: { name: string; sha256: string; bytes: number; mediaType: string }[];
}

/** What `latest.json` holds. `manifest` is relative to it. */
interface Latest {
  name: string;
  version: string;
  manifest: string;
  manifestSha256: string;
}

/**
 * Publishes files as `<root>/<name>/<version>/…`, then their manifest, then moves `<root>/<name>/latest.json` to it by
 * compare-and-swap. A reader who starts at `latest.json` therefore finds everything it names. The version is a digest of
 * the files, so publishing the same again writes nothing.
 */
export async function publishToStore(
  target: ArtifactStore, name: string, files: readonly NamedArtifact[], context: StageContext,
): Promise<{ manifest: ArtifactRef; latest: string }> {
  const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : 1));
  const listed = sorted.map((file) => ({ name: file.name, sha256: file.sha256, bytes: file.bytes, mediaType: file.mediaType }));
  const version = sha256(JSON.stringify(listed)).slice(0, 16);
  await publishFiles(target, `${name}/${version}`, sorted, context);

  const manifest = Buffer.from(`${JSON.stringify({ name, version, files: listed } satisfies Manifest, null, 2)}\n`);
  const manifestKey = `${name}/${version}/manifest.json`;
  await putOnce(target, manifestKey, manifest);
  const latestKey = `${name}/latest.json`;
  const latest: Latest = { name, version, manifest: `${version}/manifest.json`, manifestSha256: sha256(manifest) };
  const moved = await moveLatest(target, latestKey, Buffer.from(`${JSON.stringify(latest, null, 2)}\n`), context.signal);
  context.log.info({ version, moved }, `publish: ${moved ? 'latest is now' : 'latest already was'} ${version}`);
  return {
    manifest: { uri: `${target.root}/${manifestKey}`, sha256: sha256(manifest), bytes: manifest.length, mediaType: 'application/json' },
    latest: `${target.root}/${latestKey}`,
  };
}

/** Copies what the destination lacks, one file after the other, by way of the work directory. */
async function publishFiles(target: ArtifactStore, folder: string, files: readonly NamedArtifact[], context: Pick<StageContext, 'store' | 'signal' | 'progress' | 'workDirectory'>): Promise<void> {
  const { store, signal, progress, workDirectory } = context;
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let before = 0;
  for (const { name, ...ref } of files) {
    signal.throwIfAborted();
    const key = `${folder}/${name}`;
    if (!(await target.holds(key, ref))) {
      const local = join(workDirectory, 'publishing');
      // Fetching and sending count half each.
      await store.getFile(ref, local, { signal, onProgress: (done) => progress('publishing', before + done / 2, total) });
      await target.putFileAt(key, local, ref.mediaType, { signal, onProgress: (done) => progress('publishing', before + (ref.bytes + done) / 2, total) });
      await rm(local);
    }
    before += ref.bytes;
    progress('publishing', before, total);
  }
}

/** Writes bytes unless the key has them. */
async function putOnce(target: ArtifactStore, key: string, bytes: Buffer): Promise<void> {
  const found = await target.read(key);
  if (found?.bytes.equals(bytes)) return;
  if (await target.replace(key, bytes, found?.etag ?? null)) return;
  await putOnce(target, key, bytes); // another publisher of the same version wrote meanwhile
}

/** Points `latest` at a version; of several publishers the last one stays. @returns false when it pointed there already */
async function moveLatest(target: ArtifactStore, key: string, bytes: Buffer, signal: AbortSignal): Promise<boolean> {
  for (;;) {
    signal.throwIfAborted();
    const found = await target.read(key);
    if (found?.bytes.equals(bytes)) return false;
    if (await target.replace(key, bytes, found?.etag ?? null)) return true;
  }
}
