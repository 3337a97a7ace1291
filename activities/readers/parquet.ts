import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema, type AsyncBuffer, type FileMetaData } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { badDataset, type DatasetFile, type DatasetReader, type SourceRow } from './dataset-file.js';

/** Parquet with any of its codecs; read one row group at a time, and only the columns that are wanted. */
export const parquetReader: DatasetReader = {
  extensions: ['.parquet'],
  mediaTypes: ['application/vnd.apache.parquet'],
  async columns(file) {
    return columnNames((await open(file)).metadata);
  },
  async *rows(file, wanted): AsyncGenerator<SourceRow> {
    const { buffer, metadata } = await open(file);
    const columns = columnNames(metadata).filter((column) => wanted?.includes(column) ?? true);
    let rowStart = 0;
    for (const { num_rows: groupRows } of metadata.row_groups) {
      const rowEnd = rowStart + Number(groupRows);
      const rows = await parquetReadObjects({ file: buffer, metadata, compressors, columns, rowStart, rowEnd })
        .catch((error: unknown) => { throw badDataset(file, `rows ${rowStart + 1} to ${rowEnd}`, `expected Parquet data, got a mistake in it: ${(error as Error).message}`); });
      for (let i = 0; i < rows.length; i++) yield { place: `row ${rowStart + i + 1}`, values: rows[i] };
      rowStart = rowEnd;
    }
  },
};

async function open(file: DatasetFile): Promise<{ buffer: AsyncBuffer; metadata: FileMetaData }> {
  const buffer = await asyncBufferFromFile(file.path);
  try {
    return { buffer, metadata: await parquetMetadataAsync(buffer) };
  } catch (error) {
    throw badDataset(file, '', `expected a Parquet file, got one without its footer: ${(error as Error).message}`);
  }
}

const columnNames = (metadata: FileMetaData): string[] => parquetSchema(metadata).children.map(({ element }) => element.name);
