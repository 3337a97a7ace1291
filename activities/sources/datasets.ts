import { access, rename, stat } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { ArtifactRef } from '../../contracts/artifact.js';
import { InvalidInputError } from '../../contracts/errors.js';
import { verify } from '../../store/digest.js';
import { allowedPath } from './allowed-path.js';
import { builtInDatasets, fetchBuiltInDataset } from './built-in-datasets.js';
import { digestOf, recall, remember } from './digest-cache.js';
import { SourceError } from './source-error.js';
import type { SourceProgress, SourceSettings } from './source-settings.js';
import { asInput, openBucket, parseSourceUri, statObject } from './source-uri.js';

const mediaTypes: Readonly<Record<string, string>> = {
  '.csv': 'text/csv', '.json': 'application/json', '.jsonl': 'application/jsonl', '.ndjson': 'application/x-ndjson', '.parquet': 'application/vnd.apache.parquet',
};
const mediaTypeOf = (name: string): string => mediaTypes[extname(name).toLowerCase()] ?? 'application/octet-stream';

const scheme = 'builtin:';
const phase = 'fetching the dataset';

/** A dataset on this machine. `ref` is what other machines fetch it by. */
export interface LocalDataset {
  path: string;
  ref: ArtifactRef;
}

/** Finds a dataset by its URI without reading it. `fetch` brings it here when it is elsewhere, and pins it by its digest. */
export async function locateDataset(uri: string, settings: SourceSettings): Promise<{ remote: boolean; fetch(progress?: SourceProgress): Promise<LocalDataset> }> {
  const source = parseSourceUri(uri, Object.keys(builtInDatasets));
  const { cacheDirectory } = settings;
  const local = async (path: string, refUri: string, progress?: SourceProgress): Promise<LocalDataset> => ({
    path, ref: { uri: refUri, ...(await digestOf(path, cacheDirectory, (done, total) => progress?.('hashing the dataset', done, total))), mediaType: mediaTypeOf(path) },
  });
  if (source.kind === 'built-in') {
    return { remote: false, fetch: async (progress) => local(await fetchBuiltInDataset(source.name, cacheDirectory), scheme + source.name, progress) };
  }
  if (source.kind === 'file') {
    const path = await allowedPath(source.uri, settings.dataRoots);
    if (!(await stat(path)).isFile()) throw new SourceError(`expected a file, got the directory ${path}`);
    return { remote: false, fetch: (progress) => local(path, pathToFileURL(path).href, progress) };
  }
  const bucket = openBucket(source.bucket, settings);
  const { bytes, etag } = await statObject(bucket, source.key);
  const objectUri = `${bucket.root}/${source.key}`;
  return {
    remote: true,
    async fetch(progress) {
      const identity = `${objectUri}\n${bytes}\n${etag}`;
      const arrived = join(cacheDirectory, 'datasets', `arriving-${process.pid}-${basename(source.key)}`);
      const known = await recall(identity, cacheDirectory);
      const digest = known ?? (await bucket.download(source.key, arrived, { onProgress: (done, total) => progress?.(phase, done, total) }));
      const ref = { uri: objectUri, ...digest, mediaType: mediaTypeOf(source.key) };
      if (!known) {
        await rename(arrived, cachedPath(ref, cacheDirectory));
        await remember(identity, digest, cacheDirectory);
      }
      return { path: await fetchPinned(ref, settings, progress), ref };
    },
  };
}

/**
 * Local path of a dataset that `locateDataset` pinned, verified against its digest; fetched when this machine's cache lacks it.
 * @throws InvalidInputError when it is not there any more, or has changed since
 */
export const fetchDataset = (ref: ArtifactRef, settings: SourceSettings, progress?: SourceProgress): Promise<string> =>
  asInput('dataset.uri', () => fetchPinned(ref, settings, progress));

async function fetchPinned(ref: ArtifactRef, settings: SourceSettings, progress?: SourceProgress): Promise<string> {
  if (ref.uri.startsWith('s3:')) {
    const path = cachedPath(ref, settings.cacheDirectory);
    if (await access(path).then(() => true, () => false)) return path;
    const [, bucket, key] = /^s3:\/\/([^/]+)\/(.+)$/.exec(ref.uri) ?? [];
    const store = openBucket(bucket ?? '', settings);
    await store.getFile({ ...ref, uri: `${store.root}/${key}` }, path, { onProgress: (done, total) => progress?.(phase, done, total) });
    return path;
  }
  const path = ref.uri.startsWith(scheme)
    ? await fetchBuiltInDataset(ref.uri.slice(scheme.length), settings.cacheDirectory)
    : await allowedPath(pathToFileURL(fileURLToPath(ref.uri)).href, settings.dataRoots);
  const found = await digestOf(path, settings.cacheDirectory, (done, total) => progress?.('hashing the dataset', done, total));
  try {
    verify(ref, found);
  } catch {
    throw new InvalidInputError([{ path: 'dataset.uri', message: `${path}: expected sha256 ${ref.sha256}, got ${found.sha256}; the file has changed since the run began` }]);
  }
  return path;
}

const cachedPath = ({ sha256, uri }: Pick<ArtifactRef, 'sha256' | 'uri'>, cacheDirectory: string): string => join(cacheDirectory, 'datasets', sha256 + extname(uri));
