import type { Problem } from '../../contracts/pipeline.js';
import type { DatasetConfig } from '../../contracts/fine-tune-config.js';

/**
 * The columns that templates may name: those of the file under their own names, and those that `dataset.columns` names anew,
 * which hide a column of the same name.
 */
export function runColumns(fileColumns: readonly string[], mapping: DatasetConfig['columns'] = {}): string[] {
  return [...new Set([...Object.keys(mapping), ...fileColumns])];
}

/** The file's column behind a column of the run. */
export const sourceColumn = (column: string, mapping: DatasetConfig['columns'] = {}): string => (Object.hasOwn(mapping, column) ? mapping[column] : column);

/** Entries of `dataset.columns` that name no column of the file. */
export function mappingProblems(fileColumns: readonly string[], mapping: DatasetConfig['columns'] = {}): Problem[] {
  return Object.entries(mapping)
    .filter(([, source]) => !fileColumns.includes(source))
    .map(([column, source]) => ({ path: `dataset.columns.${column}`, message: `expected a column of the file (${fileColumns.join(', ')}), got '${source}'` }));
}
