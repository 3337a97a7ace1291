import { createHash, randomUUID } from 'node:crypto';
import { access, mkdir, readdir, readFile, realpath, rename, rm, stat, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { NamedArtifact } from '../../contracts/artifact.js';
import { InvalidInputError } from '../../contracts/errors.js';
import type { ModelRef } from '../../contracts/stages.js';
import type { ArtifactStore } from '../../store/artifact-store.js';
import { allowedPath } from './allowed-path.js';
import { builtInModels, fetchBuiltInModel } from './built-in-models.js';
import { digestOf, recall, remember } from './digest-cache.js';
import { fetchHubFile, HubRepository } from './hub/hub-repository.js';
import { hubSettings } from './hub/hub-settings.js';
import { describeRepository, hubScheme, pinnedHubUri, type HubUri } from './hub/hub-uri.js';
import { ggufModels, modelFiles, modelParts } from './model-files.js';
import { SourceError } from './source-error.js';
import type { SourceProgress, SourceSettings } from './source-settings.js';
import { asInput, openBucket, parseSourceUri } from './source-uri.js';

const scheme = 'builtin:';
const mediaType = (name: string): string => (name.endsWith('.json') ? 'application/json' : 'application/octet-stream');

/** A model's files on this machine, not hashed yet. */
export interface LocalModel {
  /** What the format readers open: a .gguf file or a directory. */
  path: string;
  /** Size and digest of every file; `uri` is what other machines fetch them by. */
  pin(progress?: SourceProgress): Promise<NamedArtifact[]>;
  /** Text of its README.md; undefined when it has none. */
  card(): Promise<string | undefined>;
}

/** A model that has been found, and is not read yet. */
export interface LocatedModel {
  /** Whether it has to be fetched. */
  remote: boolean;
  fetch(progress?: SourceProgress): Promise<LocalModel>;
}

/** Finds a model by its URI without reading it. `fetch` brings it here when it is elsewhere. */
export async function locateModel(uri: string, settings: SourceSettings): Promise<LocatedModel> {
  const source = parseSourceUri(uri, Object.keys(builtInModels), 'model');
  if (source.kind === 'built-in') {
    const directory = join(settings.cacheDirectory, 'models', source.name);
    const present = await access(directory).then(() => true, () => false);
    const fileUri = (name: string): string => `${scheme}${source.name}/${name}`;
    return {
      remote: !present,
      async fetch(progress) {
        progress?.('fetching the model', 0, 1);
        return localModel(await fetchBuiltInModel(source.name, settings.cacheDirectory), settings, fileUri);
      },
    };
  }
  if (source.kind === 'file') {
    const path = await allowedPath(source.uri, settings.dataRoots);
    const directory = (await stat(path)).isDirectory() ? path : dirname(path);
    return { remote: false, fetch: () => localModel(path, settings, (name) => pathToFileURL(join(directory, name)).href) };
  }
  if (source.kind === 'hub') return locateOnHub(source.repository, settings);
  return locateInBucket(source.bucket, source.key, settings);
}

async function localModel(path: string, settings: SourceSettings, uriOf: (name: string) => string): Promise<LocalModel> {
  const isDirectory = (await stat(path)).isDirectory();
  const directory = isDirectory ? path : dirname(path);
  return localFiles(path, directory, isDirectory ? modelFiles(await readdir(path)) : modelParts(basename(path), await readdir(directory)), settings, uriOf);
}

/** Files of a directory of this machine. @param path what the readers open */
export function localFiles(path: string, directory: string, names: readonly string[], { cacheDirectory }: SourceSettings, uriOf: (name: string) => string): LocalModel {
  return {
    path,
    card: () => readFile(join(directory, 'README.md'), 'utf8').catch(() => undefined),
    pin: (progress) => Promise.all(names.map(async (name) => ({
      name, uri: uriOf(name), mediaType: mediaType(name),
      ...(await digestOf(await realpath(join(directory, name)), cacheDirectory, (done, total) => progress?.(`hashing ${name}`, done, total))),
    }))),
  };
}

/** A repository's main folder, or the folder or .gguf file that the URI's path names. */
async function locateOnHub(uri: HubUri, settings: SourceSettings): Promise<LocatedModel> {
  const repository = await HubRepository.open(uri, settings.hub ?? hubSettings());
  const paths = repository.files.map(({ path }) => path);
  const single = paths.includes(uri.path);
  const folder = single ? uri.path.slice(0, uri.path.lastIndexOf('/') + 1) : uri.path === '' ? '' : `${uri.path}/`;
  const inFolder = paths.filter((path) => path.startsWith(folder) && !path.slice(folder.length).includes('/')).map((path) => path.slice(folder.length));
  const names = single ? modelParts(basename(uri.path), inFolder) : modelFiles(inFolder);
  const where = `${describeRepository(uri)}${uri.path === '' ? '' : `/${uri.path}`}`;
  const shown = (inFolder.length > 0 ? inFolder : paths).slice(0, 12).join(', ') || 'no file';
  const ggufs = ggufModels(names);
  if (ggufs.length > 1) throw repository.outage ?? new SourceError(`expected one GGUF model in ${where}, got ${ggufs.length}: ${ggufs.slice(0, 12).join(', ')}; name one, as ${hubScheme}${where}/${ggufs[0]}`);
  if (!names.some((name) => /\.(safetensors|bin|gguf)$/.test(name)) || (ggufs.length === 0 && !names.includes('config.json'))) {
    throw repository.outage ?? new SourceError(`expected config.json with weights (.safetensors or pytorch_model.bin), or a .gguf file, in ${where}, got ${shown}`);
  }
  return filesOnHub(repository, single ? uri.path : folder, folder, names, settings);
}

/** Files of a folder of a repository. @param path what the readers open, in the repository */
export async function filesOnHub(repository: HubRepository, path: string, folder: string, names: readonly string[], settings: SourceSettings): Promise<LocatedModel> {
  const wanted = names.map((name) => folder + name);
  return {
    remote: await repository.lacks(wanted),
    async fetch(progress) {
      const real = await repository.fetch(wanted, progress);
      return {
        path: join(repository.directory, path),
        card: async () => (repository.files.some((file) => file.path === 'README.md') ? repository.text('README.md').catch(() => undefined) : undefined),
        pin: (report) => Promise.all(names.map(async (name, i) => ({
          name, uri: repository.uriOf(wanted[i]), mediaType: mediaType(name),
          ...(await repository.digest(wanted[i], real[i], settings.cacheDirectory, report)),
        }))),
      };
    },
  };
}

async function locateInBucket(bucketName: string, key: string, settings: SourceSettings): Promise<LocatedModel> {
  const bucket = openBucket(bucketName, settings);
  const inFolder = (await bucket.list(`${key}/`)).map((found) => found.slice(key.length + 1)).filter((name) => !name.includes('/'));
  const names = modelFiles(inFolder);
  const single = names.length === 0 && (await bucket.stat(key)) !== undefined;
  if (names.length === 0 && !single) {
    throw new SourceError(`expected a model at ${bucket.root}/${key}, got ${inFolder.length ? inFolder.slice(0, 10).join(', ') : 'no object'}`);
  }
  const folder = single ? key.slice(0, key.lastIndexOf('/') + 1) : `${key}/`;
  const wanted = single ? modelParts(basename(key), (await bucket.list(folder)).map((found) => found.slice(folder.length))) : names;
  return filesInBucket(bucket, folder, wanted, settings, single ? basename(key) : '');
}

/** Objects of a bucket under a prefix that ends in a slash. @param open what of them the readers open; '' for their directory */
export function filesInBucket(bucket: ArtifactStore, folder: string, names: readonly string[], settings: SourceSettings, open = ''): LocatedModel {
  return {
    remote: true,
    async fetch(progress) {
      const files: NamedArtifact[] = [];
      for (const name of names) files.push(await pinObject(name, `${folder}${name}`));
      const directory = await openFiles(files, settings, progress);
      return { path: join(directory, open), card: () => Promise.resolve(undefined), pin: () => Promise.resolve(files) };

      async function pinObject(name: string, objectKey: string): Promise<NamedArtifact> {
        const found = await bucket.stat(objectKey);
        if (!found) throw new SourceError(`expected an object at ${bucket.root}/${objectKey}, got none`);
        const identity = `${bucket.root}/${objectKey}\n${found.bytes}\n${found.etag}`;
        const known = await recall(identity, settings.cacheDirectory);
        const path = join(settings.cacheDirectory, 'models', `.arriving-${randomUUID()}`);
        const digest = known ?? (await bucket.download(objectKey, path, { onProgress: (done, total) => progress?.(`fetching ${name}`, done, total) }));
        if (!known) {
          await mkdir(blobs(settings), { recursive: true });
          await rename(path, join(blobs(settings), digest.sha256));
          await remember(identity, digest, settings.cacheDirectory);
        }
        return { name, uri: `${bucket.root}/${objectKey}`, ...digest, mediaType: mediaType(name) };
      }
    },
  };
}

/** Files fetched from elsewhere, by digest; directories of models link to them. */
const blobs = ({ cacheDirectory }: SourceSettings): string => join(cacheDirectory, 'models', 'blobs');

/** Brings pinned models to this machine. */
export class ModelCache {
  constructor(private readonly settings: SourceSettings) {}

  /**
   * Directory `<cache>/models/<sha256 of names and digests>` with the files under their names: links to local files and to verified
   * downloads. Two processes may do it at once.
   * @param path what names them in the configuration @default model.uri
   * @throws InvalidInputError when a file is not there any more, or has changed since the run began
   */
  open(model: Pick<ModelRef, 'files'>, progress?: SourceProgress, path = 'model.uri'): Promise<string> {
    return asInput(path, () => openFiles(model.files, this.settings, progress, path));
  }
}

async function openFiles(files: readonly NamedArtifact[], settings: SourceSettings, progress?: SourceProgress, inputPath = 'model.uri'): Promise<string> {
  const identity = JSON.stringify(files.map(({ name, sha256 }) => [name, sha256]).sort());
  const directory = join(settings.cacheDirectory, 'models', createHash('sha256').update(identity).digest('hex'));
  const targets: { name: string; path: string }[] = [];
  for (const file of files) targets.push({ name: file.name, path: await fetchFile(file, settings, inputPath, progress) });
  if (await linksTo(directory, targets)) return directory;

  const temporary = `${directory}.${randomUUID()}`;
  await mkdir(temporary, { recursive: true });
  for (const { name, path } of targets) await symlink(path, join(temporary, name));
  await rename(temporary, directory).catch(async () => {
    // Another process was faster, or the links are of files that have moved since.
    if (!(await linksTo(directory, targets))) {
      await rename(directory, `${temporary}.old`);
      await rename(temporary, directory).finally(() => rm(`${temporary}.old`, { recursive: true, force: true }));
    }
    await rm(temporary, { recursive: true, force: true });
  });
  return directory;
}

const linksTo = async (directory: string, targets: { name: string; path: string }[]): Promise<boolean> => {
  const found = await Promise.all(targets.map(({ name, path }) => realpath(join(directory, name)).then((real) => real === path, () => false)));
  return found.every(Boolean);
};

/** Real local path of one file, verified by digest. */
async function fetchFile({ name, ...ref }: NamedArtifact, settings: SourceSettings, inputPath: string, progress?: SourceProgress): Promise<string> {
  if (basename(name) !== name) throw new InvalidInputError([{ path: inputPath, message: `expected a file name, got '${name}'` }]);
  if (ref.uri.startsWith('s3:')) {
    const path = join(blobs(settings), ref.sha256);
    if (!(await access(path).then(() => true, () => false))) {
      const [, bucket] = /^s3:\/\/([^/]+)\//.exec(ref.uri) ?? [];
      await openBucket(bucket ?? '', settings).getFile(ref, path, { onProgress: (done, total) => progress?.(`fetching ${name}`, done, total) });
    }
    return realpath(path);
  }
  const path = await findPinned(name, ref.uri, settings, progress);
  const found = await digestOf(path, settings.cacheDirectory, (done, total) => progress?.(`hashing ${name}`, done, total));
  if (found.sha256 !== ref.sha256) {
    throw new InvalidInputError([{ path: inputPath, message: `${path}: expected sha256 ${ref.sha256}, got ${found.sha256}; the file has changed since the run began` }]);
  }
  return path;
}

async function findPinned(name: string, uri: string, settings: SourceSettings, progress?: SourceProgress): Promise<string> {
  if (uri.startsWith(scheme)) return realpath(join(await fetchBuiltInModel(uri.slice(scheme.length).split('/')[0], settings.cacheDirectory), name));
  if (uri.startsWith(hubScheme)) return fetchHubFile(pinnedHubUri(uri, 'model'), settings.hub ?? hubSettings(), (done, total) => progress?.(`fetching ${name}`, done, total));
  return allowedPath(pathToFileURL(fileURLToPath(uri)).href, settings.dataRoots);
}
