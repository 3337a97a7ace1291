import { parse } from 'yaml';
import { readableExtensions } from '../../readers/index.js';
import { dataExtension } from '../../readers/data-extension.js';
import { globTest } from '../glob.js';
import { SourceError } from '../source-error.js';

/** Which of a repository's datasets is meant. */
export interface DatasetChoice {
  /** Configuration ("subset") of the dataset card. */
  config?: string;
  split?: string;
}

/** Split → its files. */
type Splits = Readonly<Record<string, readonly string[]>>;

/** https://github.com/huggingface/datasets, data_files.py: where the default splits are looked for, in this order. */
const sharded = /^data\/(.+)-\d{5}-of-\d{5}[^/]*\.[^/]*$/;
const separators = '[-._ 0-9]';
const keywords: Readonly<Record<string, string>> = {
  train: 'train|training', validation: 'validation|valid|dev|val', test: 'test|testing|eval|evaluation',
};
const ignored = new Set(['README.md', 'config.json', 'dataset_info.json', 'dataset_infos.json', 'dummy_data.zip', 'dataset_dict.json']);

/** The branch in which the hub keeps every dataset converted to Parquet, as `<config>/<split>/<number>.parquet`. */
export const parquetBranch = 'refs/convert/parquet';

/**
 * The files of one split of a repository, chosen as the `datasets` library does: by the configurations of its card (README.md)
 * where it has some, else by the names of files and folders.
 * @param card the text of README.md, undefined when there is none
 * @throws SourceError naming what there is to choose from
 */
export function datasetFiles(files: readonly string[], card: string | undefined, choice: DatasetChoice, revision?: string): string[] {
  const configs = revision === parquetBranch ? convertedConfigs(files) : cardConfigs(card, files);
  const names = Object.keys(configs);
  if (names.length === 0 && choice.config !== undefined && choice.config !== 'default') {
    throw new SourceError(`expected no configuration, as the repository's card names none, got '${choice.config}'`);
  }
  const splits = names.length === 0 ? splitsByName(files) : configs[chooseConfig(names, choice.config, card)]();
  return readable(splits[chooseSplit(Object.keys(splits), choice.split)], files);
}

function chooseConfig(names: readonly string[], wanted: string | undefined, card: string | undefined): string {
  const marked = cardEntries(card).find((entry) => entry.default === true)?.config_name;
  const found = wanted ?? marked ?? (names.includes('default') ? 'default' : names.length === 1 ? names[0] : undefined);
  if (found !== undefined && names.includes(found)) return found;
  throw new SourceError(`expected dataset.hub.config to be one of ${names.join(', ')}, got ${wanted === undefined ? 'none' : `'${wanted}'`}`);
}

function chooseSplit(names: readonly string[], wanted: string | undefined): string {
  const found = wanted ?? (names.includes('train') ? 'train' : names.length === 1 ? names[0] : undefined);
  if (found !== undefined && names.includes(found)) return found;
  if (names.length === 0) throw new SourceError(`expected files of data (${readableExtensions.join(', ')}), got none`);
  throw new SourceError(`expected dataset.hub.split to be one of ${names.join(', ')}, got ${wanted === undefined ? 'none' : `'${wanted}'`}`);
}

/** Refuses what no reader reads; the hub has most datasets in Parquet as well. */
function readable(chosen: readonly string[], files: readonly string[]): string[] {
  const known = chosen.filter((path) => readableExtensions.includes(dataExtension(path)));
  const formats = [...new Set(known.map(dataExtension))];
  if (known.length === 0) {
    const shown = (chosen.length > 0 ? chosen : files).slice(0, 8).join(', ') || 'no file';
    throw new SourceError(`expected files of data (${readableExtensions.join(', ')}), got ${shown}; the hub's own conversion may be at @${parquetBranch}`);
  }
  if (formats.length > 1) throw new SourceError(`expected files of one format, got ${formats.join(' and ')}; name those that are meant after the repository, as /*${formats[0]}`);
  return known;
}

function splitsByName(files: readonly string[], folder = ''): Splits {
  const inside = files.filter((path) => path.startsWith(folder)).map((path) => path.slice(folder.length))
    .filter((path) => !ignored.has(path.split('/').at(-1)!) && !path.split('/').some((part) => /^(\.|__)/.test(part)));
  const gather = (nameOf: (path: string) => readonly string[]): Splits => {
    const splits: Record<string, string[]> = {};
    for (const path of inside) for (const name of nameOf(path)) (splits[name] ??= []).push(folder + path);
    return splits;
  };
  const byKeyword = (place: (word: string) => RegExp) => {
    const tests = Object.entries(keywords).map(([split, words]) => [split, place(words)] as const);
    return gather((path) => tests.filter(([, test]) => test.test(path)).map(([split]) => split));
  };
  const attempts = [
    () => gather((path) => [sharded.exec(path)?.[1]].filter((name) => name !== undefined)),
    () => byKeyword((words) => new RegExp(`(?:^|/)(?:[^/]*${separators})?(?:${words})(?:${separators}[^/]*)?/`)),
    () => byKeyword((words) => new RegExp(`(?:^|/)(?:[^/]*${separators})?(?:${words})${separators}[^/]*$`)),
    () => gather(() => ['train']),
  ];
  for (const attempt of attempts) {
    const splits = attempt();
    if (Object.keys(splits).length > 0) return splits;
  }
  return {};
}

interface CardEntry { config_name: string; default?: boolean; data_dir?: string; data_files?: unknown }

function cardEntries(card: string | undefined): CardEntry[] {
  const [, front] = /^---\r?\n([^]*?)\r?\n---/.exec(card ?? '') ?? [];
  if (front === undefined) return [];
  let json: unknown;
  try {
    json = parse(front);
  } catch (error) {
    throw new SourceError(`README.md: expected YAML between its --- lines, got a mistake in it: ${(error as Error).message.split('\n')[0]}`);
  }
  const { configs } = (json ?? {}) as { configs?: unknown };
  return Array.isArray(configs) ? configs.filter((entry): entry is CardEntry => typeof (entry as CardEntry | null)?.config_name === 'string') : [];
}

/** Configuration → its splits, worked out when it is chosen. */
function cardConfigs(card: string | undefined, files: readonly string[]): Record<string, () => Splits> {
  return Object.fromEntries(cardEntries(card).map((entry) => [entry.config_name, () => cardSplits(entry, files)]));
}

function cardSplits({ config_name: name, data_dir: folder, data_files: patterns }: CardEntry, files: readonly string[]): Splits {
  const root = folder === undefined || folder === '.' ? '' : `${folder.replace(/^\.?\//, '').replace(/\/$/, '')}/`;
  if (patterns === undefined || patterns === null) return splitsByName(files, root);
  const splits: Record<string, string[]> = {};
  for (const item of Array.isArray(patterns) ? (patterns as unknown[]) : [patterns]) {
    const { split = 'train', path } = typeof item === 'string' ? { path: item } : ((item ?? {}) as { split?: unknown; path?: unknown });
    const paths = Array.isArray(path) ? (path as unknown[]) : [path];
    for (const pattern of paths) {
      if (typeof pattern !== 'string' || typeof split !== 'string') {
        throw new SourceError(`README.md: configuration '${name}': expected data_files to be paths, or splits with a path, got ${JSON.stringify(item)}`);
      }
      const matches = globTest(root + pattern.replace(/^\.\//, ''));
      const found = files.filter(matches);
      if (found.length === 0) throw new SourceError(`README.md: configuration '${name}': expected files like ${root}${pattern}, got none`);
      (splits[split] ??= []).push(...found.filter((file) => !splits[split].includes(file)));
    }
  }
  return splits;
}

function convertedConfigs(files: readonly string[]): Record<string, () => Splits> {
  const configs: Record<string, Record<string, string[]>> = {};
  for (const path of files) {
    const [, config, split] = /^([^/]+)\/(?:partial-)?([^/]+)\/[^/]+\.parquet$/.exec(path) ?? [];
    if (config !== undefined) ((configs[config] ??= {})[split] ??= []).push(path);
  }
  return Object.fromEntries(Object.entries(configs).map(([name, splits]) => [name, () => splits]));
}
