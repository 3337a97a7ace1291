import { reportInputSchema, reportOutputSchema, type ReportInput, type ReportOutput } from '../contracts/stages.js';
import { renderMarkdown } from './report/markdown.js';
import { renderModelCard } from './report/model-card.js';
import { renderPage } from './report/page.js';
import { loadReportData } from './report/report-data.js';
import { defineStage } from './stage.js';

const markdown = 'text/markdown; charset=utf-8';

/** Says whether the tuning helped, and shows what that rests on: one HTML page and its Markdown; and the model cards. */
export const reportStage = defineStage<ReportInput, ReportOutput>({
  name: 'report',
  version: 2,
  input: reportInputSchema,
  output: reportOutputSchema,
  async run(input, { store }) {
    const data = await loadReportData(input, store);
    return {
      html: await store.putBytes(Buffer.from(renderPage(data)), 'text/html; charset=utf-8'),
      markdown: await store.putBytes(Buffer.from(renderMarkdown(data)), markdown),
      cards: {
        adapter: await store.putBytes(Buffer.from(renderModelCard(data, 'adapter')), markdown),
        merged: await store.putBytes(Buffer.from(renderModelCard(data, 'merged')), markdown),
      },
    };
  },
});
