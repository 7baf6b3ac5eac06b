/* x W^T and x W for a wide W, made of the pieces of wide_kernels.h, and with them what the adapters of the rows add. */

/* Rows that one thread takes at least. */
#define FEWEST 48
#define WIDEST_PANEL 32
#define MOST_ROWS 12

typedef struct {
  const Kernels *kernels;      /* read once: another thread may choose others meanwhile */
  size_t rows, terms, columns; /* of x; summed up; of the result */
  const float *x, *weight;     /* [rows, terms]; [columns, terms], or `turned` [terms, columns] */
  float *y;                    /* [rows, columns] */
  int turned;
  const float *base;           /* [columns], what each row begins with, or NULL */
  size_t rank, number;         /* of adapters, 0: none; of tasks */
  const float *states;         /* [rows, rank] */
  const size_t *tasks;         /* whose each row is */
  const float *factors;        /* [panels, number, rank, a panel's columns]: the states are multiplied by */
  size_t parts;                /* the rows are cut into */
} Wide;

static size_t panels_of(const Kernels *k, size_t columns) { return (columns + k->panel - 1) / k->panel; }

/* Packs B of a task, [columns, rank], or `turned` A, [rank, columns], into the panels from `first` on before `last`. */
static void pack_factors(const Kernels *k, size_t columns, size_t rank, const float *weight, int turned, size_t task,
                         size_t number, size_t first, size_t last, float *factors) {
  for (size_t i = first; i < last; i++) {
    size_t column = i * k->panel, some = smaller(k->panel, columns - column);
    float *panel = factors + (i * number + task) * rank * k->panel;
    if (turned) {
      k->pack_columns(some, rank, weight + column, columns, panel);
    } else if (rank == 8 && some == k->panel) {
      k->transpose(some, rank, weight + column * rank, panel);
    } else {
      k->pack_rows(some, rank, weight + column * rank, rank, panel);
    }
  }
}

/* Where the values of a panel begin that begins with this column. */
static const float *of_panel(const Wide *p, size_t column) { return p->weight + column * (p->turned ? 1 : p->terms); }

/* The memory of the panel that begins with this column, to be asked for in `times` parts. */
static Ask ask_for_panel(const Wide *p, size_t column, size_t times) {
  if (column >= p->columns) return (Ask){0};
  size_t columns = smaller(p->kernels->panel, p->columns - column);
  /* Weights that lie in a file begin anywhere, and so have a part of a line more. */
  size_t before = (uintptr_t)of_panel(p, column) / sizeof(float) % LINE;
  size_t lines = (before + (p->turned ? columns : p->terms) + LINE - 1) / LINE, all = lines * (p->turned ? p->terms : columns);
  size_t part = times < 4 ? times : times / 4;
  return (Ask){of_panel(p, column) - before, p->turned ? p->columns : p->terms, lines, 0, times - part, all, (all + part - 1) / part};
}

/* How many of `most` rows from this one on are the next tile: rows of one task take what they add from the same memory. */
static size_t next_rows(const Wide *p, size_t row, size_t most, int *together) {
  size_t same = 1, rows = smaller(most, MOST_ROWS), seen = smaller(most, 20);
  *together = 1;
  if (!p->rank) return rows;
  while (same < seen && p->tasks[row + same] == p->tasks[row]) same++;
  if (same >= 16 && same < 20) return 8; /* and 8 more */
  if (same >= rows) return rows;
  if (same >= 8) return 8;
  if (same >= 4) return 4;
  *together = 0;
  return rows;
}

/* These rows of the columns from `column` on, at most a panel of them; `panel` is memory for all terms of one. */
static void wide_panel(const Wide *p, size_t column, size_t first, size_t last, float *panel) {
  float rest[MOST_ROWS * WIDEST_PANEL], base[WIDEST_PANEL] = {0};
  const float *of_rows[MOST_ROWS] = {0};
  size_t width = p->kernels->panel, columns = smaller(width, p->columns - column);
  size_t steps = (last - first + MOST_ROWS - 1) / MOST_ROWS;
  const float *factors = p->factors + column * p->number * p->rank;
  Ask ask = ask_for_panel(p, column + width, steps * (p->terms / EACH) + 1);
  if (p->base) memcpy(base, p->base + column, columns * sizeof(float));
  (p->turned ? p->kernels->pack_columns : p->kernels->pack_rows)(columns, p->terms, of_panel(p, column),
                                                           p->turned ? p->columns : p->terms, panel);
  for (size_t m = first, rows = 0; m < last; m += rows) {
    int together;
    rows = next_rows(p, m, last - m, &together);
    float *y = p->y + m * p->columns + column;
    for (size_t i = 0; p->rank && i < rows; i++) of_rows[i] = factors + p->tasks[m + i] * p->rank * width;
    Tile tile = {p->terms, p->x + m * p->terms, p->terms, panel, y, p->columns, &ask, base, p->rank,
                 p->states + m * p->rank, of_rows, together};
    if (columns == width) {
      p->kernels->tiles(rows, &tile);
      continue;
    }
    tile.y = rest, tile.ldy = width;
    p->kernels->tiles(rows, &tile);
    for (size_t i = 0; i < rows; i++) memcpy(y + i * p->columns, rest + i * width, columns * sizeof(float));
  }
}

/* 0: there was no memory. */
static int wide(Wide *p, size_t threads) {
  size_t panels = panels_of(p->kernels, p->columns);
  size_t own = p->terms * p->kernels->panel; /* a number of lines: a panel has one at least */
  float *memory = malloc((threads * own + LINE) * sizeof(float));
  if (!memory) return 0;
  float *aligned = memory + LINE - (uintptr_t)memory / sizeof(float) % LINE;
  /* Few panels for many threads: rows are cut too. */
  p->parts = threads == 1 || panels % threads == 0 ? 1 : (4 * threads + panels - 1) / panels;
  p->parts = smaller(p->parts, p->rows < FEWEST ? 1 : p->rows / FEWEST);
  size_t pieces = panels * p->parts;
#pragma omp parallel for num_threads((int)threads) schedule(static)
  for (size_t thread = 0; thread < threads; thread++) {
    for (size_t i = pieces * thread / threads; i < pieces * (thread + 1) / threads; i++) {
      size_t k = i % p->parts, first = part(p->rows, MOST_ROWS, k, p->parts), last = part(p->rows, MOST_ROWS, k + 1, p->parts);
      if (first < last) wide_panel(p, i / p->parts * p->kernels->panel, first, last, aligned + thread * own);
    }
  }
  free(memory);
  return 1;
}
