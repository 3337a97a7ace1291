import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema, type AsyncBuffer, type FileMetaData, type RowGroup } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { badDataset, type DatasetFile, type DatasetReader, type SourceRow } from './dataset-file.js';

/** Values that are decoded at once, in bytes: writers make row groups of any size. */
const windowBytes = 32 << 20;

/** Parquet with any of its codecs; read one row group at a time, large ones in parts, and only the columns that are wanted. */
export const parquetReader: DatasetReader = {
  extensions: ['.parquet'],
  mediaTypes: ['application/vnd.apache.parquet'],
  async columns(file) {
    return columnNames((await open(file)).metadata);
  },
  async *rows(file, wanted): AsyncGenerator<SourceRow> {
    const { buffer, metadata } = await open(file);
    const columns = columnNames(metadata).filter((column) => wanted?.includes(column) ?? true);
    let groupStart = 0;
    for (const group of metadata.row_groups) {
      const groupEnd = groupStart + Number(group.num_rows);
      const step = rowsAtOnce(group, columns);
      for (let rowStart = groupStart; rowStart < groupEnd; rowStart += step) {
        const rowEnd = Math.min(rowStart + step, groupEnd);
        const rows = await parquetReadObjects({ file: buffer, metadata, compressors, columns, rowStart, rowEnd, useOffsetIndex: true })
          .catch((error: unknown) => { throw badDataset(file, `rows ${rowStart + 1} to ${rowEnd}`, `expected Parquet data, got a mistake in it: ${(error as Error).message}`); });
        for (let i = 0; i < rows.length; i++) yield { place: `row ${rowStart + i + 1}`, values: rows[i] };
      }
      groupStart = groupEnd;
    }
  },
};

/** Rows of a group whose values of these columns fit into the window. */
function rowsAtOnce({ num_rows: rows, columns: chunks }: RowGroup, columns: readonly string[]): number {
  const bytes = chunks.filter(({ meta_data: data }) => data && columns.includes(data.path_in_schema[0]))
    .reduce((sum, { meta_data: data }) => sum + Number(data!.total_uncompressed_size), 0);
  return Math.max(1, Math.ceil(Number(rows) / Math.max(1, Math.ceil(bytes / windowBytes))));
}

async function open(file: DatasetFile): Promise<{ buffer: AsyncBuffer; metadata: FileMetaData }> {
  const buffer = await asyncBufferFromFile(file.path);
  try {
    return { buffer, metadata: await parquetMetadataAsync(buffer) };
  } catch (error) {
    throw badDataset(file, '', `expected a Parquet file, got one without its footer: ${(error as Error).message}`);
  }
}

const columnNames = (metadata: FileMetaData): string[] => parquetSchema(metadata).children.map(({ element }) => element.name);
