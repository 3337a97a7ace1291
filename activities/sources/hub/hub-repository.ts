import { readFile } from 'node:fs/promises';
import type { Digest } from '../../../store/artifact-store.js';
import { digestOf } from '../digest-cache.js';
import { requireSpace } from '../free-space.js';
import { SourceError } from '../source-error.js';
import type { SourceProgress } from '../source-settings.js';
import { HubApi, type HubFile } from './hub-api.js';
import { HubCache } from './hub-cache.js';
import { downloadBlob } from './hub-download.js';
import { HubUnreachableError } from './hub-errors.js';
import type { HubSettings } from './hub-settings.js';
import { describeRepository, hubFileUri, isCommit, type HubRepositoryId, type HubUri } from './hub-uri.js';

/** Files that are fetched at once. */
const connections = 4;

/** A file of a repository. Of one that only the cache tells of, size and checksum are not known. */
export type RepositoryFile = Pick<HubFile, 'path'> & Partial<HubFile>;

/** One commit of a repository: what it has, and a way to have it here. */
export class HubRepository {
  private constructor(
    readonly id: HubRepositoryId,
    /** What the user's revision means: it stays the same for the whole run. */
    readonly commit: string,
    readonly files: readonly RepositoryFile[],
    private readonly cache: HubCache,
    private readonly api: HubApi,
    /** Why only the cache tells what there is, when the hub was asked and did not answer: what is missing may be there then. */
    readonly outage?: HubUnreachableError,
  ) {}

  /**
   * Asks the hub for the commit and its files. Offline, or when the hub does not answer, the cache tells what it knows.
   * @throws SourceError when there is no such repository or revision, or the cache has nothing of it
   */
  static async open(uri: HubUri, settings: HubSettings): Promise<HubRepository> {
    const api = new HubApi(settings);
    const cache = new HubCache(settings.cacheDirectory, uri);
    const online = settings.offline ? undefined : await askHub(uri, api).catch((error: unknown) => {
      if (error instanceof HubUnreachableError) return error;
      throw error;
    });
    if (online && !(online instanceof HubUnreachableError)) {
      await cache.remember(uri.revision ?? 'main', online.commit);
      return new HubRepository(uri, online.commit, online.files, cache, api);
    }
    const known = await openCached(uri, cache);
    if (known) return new HubRepository(uri, known.commit, known.files, cache, api, online);
    throw online ?? new SourceError(`expected ${describeRepository(uri)} among what has been fetched before (${settings.cacheDirectory}), as HF_HUB_OFFLINE is set; got nothing of this revision`);
  }

  uriOf(path: string): string {
    return hubFileUri(this.id, this.commit, path);
  }

  /** The directory that `fetch` puts files into, under their paths. */
  get directory(): string {
    return this.cache.snapshot(this.commit);
  }

  /**
   * Whether some files are not here. If so, it is asked whether they may be had.
   * @throws SourceError when the repository is gated
   */
  async lacks(paths: readonly string[]): Promise<boolean> {
    for (const path of paths) {
      const file = this.#file(path);
      if ((await this.cache.find(this.commit, path, file.bytes)) !== undefined) continue;
      if (file.etag !== undefined) await this.api.requireAccess(this.id, this.commit, path);
      return true;
    }
    return false;
  }

  /** Brings files here, several at once. @returns their real paths, in order */
  async fetch(paths: readonly string[], progress?: SourceProgress): Promise<string[]> {
    const wanted = paths.map((path) => this.#file(path));
    const total = wanted.reduce((sum, { bytes = 0 }) => sum + bytes, 0);
    await requireSpace(this.cache.folder, await this.#missingBytes(wanted), 'HF_HUB_CACHE');
    const arrived = new Map<string, number>();
    const report = (path: string, bytes: number): void => {
      arrived.set(path, bytes);
      progress?.(`fetching ${this.id.name}`, [...arrived.values()].reduce((sum, part) => sum + part, 0), total);
    };
    const found: string[] = [];
    const queue = wanted.map((file, i) => ({ file, i }));
    const work = async (): Promise<void> => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        const { file, i } = next;
        found[i] = await this.#fetchOne(file, (bytes) => report(file.path, bytes));
        report(file.path, file.bytes ?? 0);
      }
    };
    const workers = Array.from({ length: Math.min(connections, wanted.length) }, () => work().catch((error: unknown) => {
      queue.length = 0; // the others end with the files that they are at
      throw error;
    }));
    const outcomes = await Promise.allSettled(workers);
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
    return found;
  }

  /** Size and sha256 of a file that is here. @throws SourceError when it is not the one that the hub has */
  async digest(path: string, real: string, cacheDirectory: string, progress?: SourceProgress): Promise<Digest> {
    const digest = await digestOf(real, cacheDirectory, (done, total) => progress?.(`hashing ${path}`, done, total));
    const { etag } = this.#file(path);
    if (etag?.length === 64 && digest.sha256 !== etag) throw new SourceError(`${real}: expected sha256 ${etag}, got ${digest.sha256}; the file in the cache is damaged: remove it, and it is fetched again`);
    return digest;
  }

  /** The text of a small file. */
  async text(path: string): Promise<string> {
    return readFile((await this.fetch([path]))[0], 'utf8');
  }

  async #missingBytes(files: readonly RepositoryFile[]): Promise<number> {
    const missing = await Promise.all(files.map(async ({ etag, bytes = 0 }) => (etag === undefined || (await this.cache.holds(etag, bytes)) ? 0 : bytes)));
    return missing.reduce((sum, bytes) => sum + bytes, 0);
  }

  async #fetchOne(file: RepositoryFile, onProgress: (bytes: number) => void): Promise<string> {
    const here = await this.cache.find(this.commit, file.path, file.bytes);
    if (here !== undefined) return here;
    const { bytes, etag } = file;
    if (bytes === undefined || etag === undefined) throw this.outage ?? new SourceError(`expected ${this.id.name}/${file.path} in ${this.cache.folder}, as HF_HUB_OFFLINE is set; got none`);
    await fetchIntoCache(this.api, this.cache, this.id, this.commit, { path: file.path, bytes, etag }, onProgress);
    return (await this.cache.find(this.commit, file.path, bytes))!;
  }

  #file(path: string): RepositoryFile {
    const file = this.files.find((candidate) => candidate.path === path);
    if (!file) throw new SourceError(`expected a file ${path} in ${this.id.name}@${this.commit}, got none`);
    return file;
  }
}

async function askHub(uri: HubUri, api: HubApi): Promise<{ commit: string; files: RepositoryFile[] }> {
  const commit = uri.revision !== undefined && isCommit(uri.revision) ? uri.revision : await api.resolve(uri, uri.revision);
  return { commit, files: await api.list(uri, commit) };
}

async function openCached(uri: HubUri, cache: HubCache): Promise<{ commit: string; files: RepositoryFile[] } | undefined> {
  const commit = await cache.recall(uri.revision ?? 'main');
  const paths = commit === undefined ? [] : await cache.paths(commit);
  return commit === undefined || paths.length === 0 ? undefined : { commit, files: paths.map((path) => ({ path })) };
}

async function fetchIntoCache(api: HubApi, cache: HubCache, id: HubRepositoryId, commit: string, file: HubFile, onProgress?: (bytes: number) => void): Promise<void> {
  if (!(await cache.holds(file.etag, file.bytes))) await downloadBlob(api, { id, commit, file, target: cache.blobPath(file.etag), onProgress });
  await cache.link(commit, file.path, file.etag);
}

/**
 * Real path of one file of a commit: from the cache, or fetched into it.
 * @throws SourceError when there is no such file, or offline
 */
export async function fetchHubFile({ path, ...uri }: HubUri & { revision: string }, settings: HubSettings, onProgress?: (done: number, total: number) => void): Promise<string> {
  const cache = new HubCache(settings.cacheDirectory, uri);
  const here = await cache.find(uri.revision, path);
  if (here !== undefined) return here;
  if (settings.offline) throw new SourceError(`expected ${describeRepository(uri)}/${path} in ${settings.cacheDirectory}, as HF_HUB_OFFLINE is set; got none`);
  const api = new HubApi(settings);
  const file = await api.file(uri, uri.revision, path);
  await fetchIntoCache(api, cache, uri, uri.revision, file, (bytes) => onProgress?.(bytes, file.bytes));
  return (await cache.find(uri.revision, path, file.bytes))!;
}
