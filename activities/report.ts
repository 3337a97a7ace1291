import { reportInputSchema, reportOutputSchema, type ReportInput, type ReportOutput } from '../contracts/stages.js';
import { renderMarkdown } from './report/markdown.js';
import { renderPage } from './report/page.js';
import { loadReportData } from './report/report-data.js';
import { defineStage } from './stage.js';

/** Says whether the tuning helped, and shows what that rests on: one HTML page and its Markdown. */
export const reportStage = defineStage<ReportInput, ReportOutput>({
  name: 'report',
  version: 1,
  input: reportInputSchema,
  output: reportOutputSchema,
  async run(input, { store }) {
    const data = await loadReportData(input, store);
    return {
      html: await store.putBytes(Buffer.from(renderPage(data)), 'text/html; charset=utf-8'),
      markdown: await store.putBytes(Buffer.from(renderMarkdown(data)), 'text/markdown; charset=utf-8'),
    };
  },
});
