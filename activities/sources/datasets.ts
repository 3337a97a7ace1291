import { access, rename } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { ArtifactRef } from '../../contracts/artifact.js';
import { InvalidInputError } from '../../contracts/errors.js';
import type { DatasetConfig } from '../../contracts/fine-tune-config.js';
import type { Problem } from '../../contracts/pipeline.js';
import type { ArtifactStore } from '../../store/artifact-store.js';
import { verify } from '../../store/digest.js';
import { compressedExtensions, dataExtension } from '../readers/data-extension.js';
import { allowedFiles, allowedPath } from './allowed-path.js';
import { builtInDatasets, fetchBuiltInDataset } from './built-in-datasets.js';
import { digestOf, recall, remember } from './digest-cache.js';
import { globRoot, globTest, isGlob } from './glob.js';
import { datasetFiles } from './hub/dataset-files.js';
import { fetchHubFile, HubRepository } from './hub/hub-repository.js';
import { hubSettings } from './hub/hub-settings.js';
import { describeRepository, hubScheme, pinnedHubUri, type HubUri } from './hub/hub-uri.js';
import { SourceError } from './source-error.js';
import type { SourceProgress, SourceSettings } from './source-settings.js';
import { asInput, isBadSource, openBucket, parseSourceUri, statObject } from './source-uri.js';

const mediaTypes: Readonly<Record<string, string>> = {
  '.csv': 'text/csv', '.json': 'application/json', '.jsonl': 'application/jsonl', '.ndjson': 'application/x-ndjson', '.parquet': 'application/vnd.apache.parquet',
};
/** Of the text, where a file is compressed. */
const mediaTypeOf = (name: string): string => mediaTypes[dataExtension(name)] ?? 'application/octet-stream';

const scheme = 'builtin:';
const phase = 'fetching the dataset';

/** A dataset's file on this machine. `ref` is what other machines fetch it by. */
export interface LocalDataset {
  path: string;
  /** What the user calls it, for messages. */
  name: string;
  ref: ArtifactRef;
}

/** A dataset's files that have been found, and are not read yet. */
export interface LocatedDataset {
  /** Whether some of them have to be fetched. */
  remote: boolean;
  /** Brings them here and pins each by its digest; in the order of the URIs, those of one pattern by name. */
  fetch(progress?: SourceProgress): Promise<LocalDataset[]>;
}

/** Finds a dataset's files by their URIs without reading them. @throws InvalidInputError with every URI that names nothing */
export async function locateDataset({ uri, hub }: Pick<DatasetConfig, 'uri' | 'hub'>, settings: SourceSettings): Promise<LocatedDataset> {
  const problems: Problem[] = [];
  const located: LocatedDataset[] = [];
  for (const [i, single] of [uri].flat().entries()) {
    const path = typeof uri === 'string' ? 'dataset.uri' : `dataset.uri[${i}]`;
    try {
      located.push(await locate(single, hub, settings));
    } catch (error) {
      if (!isBadSource(error)) throw error;
      problems.push({ path, message: error.message });
    }
  }
  if (hub !== undefined && ![uri].flat().some((single) => single.startsWith(hubScheme))) {
    problems.push({ path: 'dataset.hub', message: `expected none beside files that are not on the hub, got ${JSON.stringify(hub)}` });
  }
  if (problems.length > 0) throw new InvalidInputError(problems);
  return {
    remote: located.some(({ remote }) => remote),
    async fetch(progress) {
      const files: LocalDataset[] = [];
      for (const source of located) files.push(...(await source.fetch(progress)));
      const uris = files.map(({ ref }) => ref.uri);
      const twice = uris.find((name, i) => uris.indexOf(name) < i);
      if (twice !== undefined) throw new SourceError(`expected every file once, got ${twice} twice`);
      return files;
    },
  };
}

async function locate(uri: string, hub: DatasetConfig['hub'], settings: SourceSettings): Promise<LocatedDataset> {
  const source = parseSourceUri(uri, Object.keys(builtInDatasets), 'dataset');
  const { cacheDirectory } = settings;
  const local = async (path: string, name: string, refUri: string, progress?: SourceProgress): Promise<LocalDataset> => ({
    path, name,
    ref: { uri: refUri, ...(await digestOf(path, cacheDirectory, (done, total) => progress?.('hashing the dataset', done, total))), mediaType: mediaTypeOf(name) },
  });
  if (source.kind === 'built-in') {
    return {
      remote: false,
      async fetch(progress) {
        const path = await fetchBuiltInDataset(source.name, cacheDirectory);
        return [{ ...(await local(path, basename(path), scheme + source.name, progress)), name: source.name }];
      },
    };
  }
  if (source.kind === 'file') {
    const found = await allowedFiles(source.uri, settings.dataRoots);
    return {
      remote: false,
      async fetch(progress) {
        const files: LocalDataset[] = [];
        for (const { path, name } of found) files.push(await local(path, name, pathToFileURL(path).href, progress));
        return files;
      },
    };
  }
  return source.kind === 'hub' ? locateOnHub(source.repository, hub, settings) : locateInBucket(openBucket(source.bucket, settings), source.key, settings);
}

/** The files that the URI's path names, or those of the split that `dataset.hub` asks for. */
async function locateOnHub(uri: HubUri, hub: DatasetConfig['hub'], settings: SourceSettings): Promise<LocatedDataset> {
  const repository = await HubRepository.open(uri, settings.hub ?? hubSettings());
  const files = repository.files.map(({ path }) => path);
  const chosen = await choose().catch((error: unknown) => { throw repository.outage ?? error; });
  return {
    remote: await repository.lacks(chosen),
    async fetch(progress) {
      const paths = await repository.fetch(chosen, progress);
      return Promise.all(chosen.map(async (name, i) => ({
        path: paths[i], name: basename(name),
        ref: { uri: repository.uriOf(name), ...(await repository.digest(name, paths[i], settings.cacheDirectory, progress)), mediaType: mediaTypeOf(name) },
      })));
    },
  };

  async function choose(): Promise<string[]> {
    if (uri.path !== '' && (files.includes(uri.path) || isGlob(uri.path))) {
      if (hub !== undefined) throw new SourceError(`expected no dataset.hub beside the path '${uri.path}', which names the files, got ${JSON.stringify(hub)}`);
      const matches = files.includes(uri.path) ? [uri.path] : files.filter(globTest(uri.path));
      if (matches.length === 0) throw new SourceError(`expected files like ${uri.path} in ${describeRepository(uri)}, got ${files.slice(0, 12).join(', ') || 'none'}`);
      return matches.sort();
    }
    const folder = uri.path === '' ? '' : `${uri.path}/`;
    const inside = files.filter((path) => path.startsWith(folder)).map((path) => path.slice(folder.length));
    if (inside.length === 0) throw new SourceError(`expected a file or folder ${uri.path} in ${describeRepository(uri)}, got ${files.slice(0, 12).join(', ') || 'none'}`);
    const card = folder === '' && files.includes('README.md') ? await repository.text('README.md') : undefined;
    return datasetFiles(inside, card, hub ?? {}, uri.revision).map((path) => folder + path);
  }
}

async function locateInBucket(bucket: ArtifactStore, key: string, settings: SourceSettings): Promise<LocatedDataset> {
  const keys = isGlob(key) && (await bucket.stat(key)) === undefined ? (await bucket.list(globRoot(key))).filter(globTest(key)) : [key];
  if (keys.length === 0) throw new SourceError(`expected objects like ${bucket.root}/${key}, got none`);
  const objects: { key: string; bytes: number; etag: string }[] = [];
  for (const found of keys) objects.push({ key: found, ...(await statObject(bucket, found)) });
  return {
    remote: true,
    async fetch(progress) {
      const files: LocalDataset[] = [];
      for (const object of objects) files.push(await fetchObject(bucket, object, settings, progress));
      return files;
    },
  };
}

async function fetchObject(bucket: ArtifactStore, { key, bytes, etag }: { key: string; bytes: number; etag: string }, settings: SourceSettings, progress?: SourceProgress): Promise<LocalDataset> {
  const { cacheDirectory } = settings;
  const objectUri = `${bucket.root}/${key}`;
  const identity = `${objectUri}\n${bytes}\n${etag}`;
  const arrived = join(cacheDirectory, 'datasets', `arriving-${process.pid}-${basename(key)}`);
  const known = await recall(identity, cacheDirectory);
  const digest = known ?? (await bucket.download(key, arrived, { onProgress: (done, total) => progress?.(phase, done, total) }));
  const ref = { uri: objectUri, ...digest, mediaType: mediaTypeOf(key) };
  if (!known) {
    await rename(arrived, cachedPath(ref, cacheDirectory));
    await remember(identity, digest, cacheDirectory);
  }
  return { path: await fetchPinned(ref, settings, progress), name: basename(key), ref };
}

/**
 * Local path of a dataset file that `locateDataset` pinned, verified against its digest; fetched when this machine's cache lacks it.
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
  const path = await findPinned(ref.uri, settings, progress);
  const found = await digestOf(path, settings.cacheDirectory, (done, total) => progress?.('hashing the dataset', done, total));
  try {
    verify(ref, found);
  } catch {
    throw new InvalidInputError([{ path: 'dataset.uri', message: `${path}: expected sha256 ${ref.sha256}, got ${found.sha256}; the file has changed since the run began` }]);
  }
  return path;
}

function findPinned(uri: string, settings: SourceSettings, progress?: SourceProgress): Promise<string> {
  if (uri.startsWith(scheme)) return fetchBuiltInDataset(uri.slice(scheme.length), settings.cacheDirectory);
  if (uri.startsWith(hubScheme)) return fetchHubFile(pinnedHubUri(uri, 'dataset'), settings.hub ?? hubSettings(), (done, total) => progress?.(phase, done, total));
  return allowedPath(pathToFileURL(fileURLToPath(uri)).href, settings.dataRoots);
}

/** Extensions stay, as they tell the format. */
function cachedPath({ sha256, uri }: Pick<ArtifactRef, 'sha256' | 'uri'>, cacheDirectory: string): string {
  const outer = extname(uri);
  const inner = (compressedExtensions as readonly string[]).includes(outer.toLowerCase()) ? dataExtension(uri) : '';
  return join(cacheDirectory, 'datasets', sha256 + inner + outer);
}
