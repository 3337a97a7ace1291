/** Rows as columns; the first row is the heading, figures (all but the first column) are flush right. */
export function table(rows: string[][]): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => [...row[column]].length)));
  const line = (row: string[]): string => row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('   ');
  return [line(rows[0]), widths.map((width) => '─'.repeat(width)).join('───'), ...rows.slice(1).map(line)];
}
