/* x W^T and x W for a wide W, made of the pieces of wide_kernels.h, and with them what the adapters of the rows add. */

/* Terms of a panel, which stays near: its values are asked for again for each tile. */
#define TERMS 384
/* Rows that one thread takes at least. */
#define FEWEST 48
#define WIDEST_PANEL 32
#define MOST_ROWS 12

typedef struct {
  size_t rows, terms, columns; /* of x; summed up; of the result */
  const float *x, *weight;     /* [rows, terms]; [columns, terms], or `turned` [terms, columns] */
  float *y;                    /* [rows, columns] */
  int turned, adds;            /* adds to what y holds */
  const float *base;           /* [columns], what each row begins with, or NULL */
  size_t rank, number;         /* of adapters, 0: none; of tasks */
  const float *states;         /* [rows, rank] */
  const size_t *tasks;         /* whose each row is */
  const float *factors;        /* [panels, number, rank, a panel's columns]: the states are multiplied by */
  size_t parts, block;         /* the rows are cut into; terms at once */
} Wide;

static size_t panels_of(size_t columns) { return (columns + kernels->panel - 1) / kernels->panel; }

/* Packs B of a task, [columns, rank], or `turned` A, [rank, columns], into the panels from `first` on before `last`. */
static void pack_factors(size_t columns, size_t rank, const float *weight, int turned, size_t task, size_t number, size_t first,
                         size_t last, float *factors) {
  for (size_t i = first; i < last; i++) {
    size_t column = i * kernels->panel, some = smaller(kernels->panel, columns - column);
    float *panel = factors + (i * number + task) * rank * kernels->panel;
    if (turned) {
      kernels->pack_columns(some, rank, weight + column, columns, panel);
    } else if (rank == 8 && some == kernels->panel) {
      kernels->transpose(some, rank, weight + column * rank, panel);
    } else {
      kernels->pack_rows(some, rank, weight + column * rank, rank, panel);
    }
  }
}

/* Where the values of these columns and terms begin. */
static const float *of_panel(const Wide *p, size_t column, size_t term) {
  return p->turned ? p->weight + term * p->columns + column : p->weight + column * p->terms + term;
}

/* The memory of the panel that comes after this one, to be asked for in `times` parts. */
static Ask next_panel(const Wide *p, size_t column, size_t term, size_t times) {
  if (term + p->block < p->terms) {
    term += p->block;
  } else {
    column += kernels->panel, term = 0;
  }
  if (column >= p->columns) return (Ask){0};
  size_t terms = smaller(p->block, p->terms - term), columns = smaller(kernels->panel, p->columns - column);
  size_t lines = ((p->turned ? columns : terms) + 15) / 16, all = lines * (p->turned ? terms : columns);
  return (Ask){of_panel(p, column, term), p->turned ? p->columns : p->terms, lines, 0, all, (all + times - 1) / times};
}

/* These rows of the columns from `column` on, at most a panel of them. */
static void wide_panel(const Wide *p, size_t column, size_t first, size_t last) {
  float panel[TERMS * WIDEST_PANEL] __attribute__((aligned(64))), rest[MOST_ROWS * WIDEST_PANEL], base[WIDEST_PANEL] = {0};
  const float *of_rows[MOST_ROWS] = {0};
  size_t width = kernels->panel, columns = smaller(width, p->columns - column);
  size_t steps = (last - first + MOST_ROWS - 1) / MOST_ROWS;
  const float *factors = p->factors + column * p->number * p->rank;
  if (p->base) memcpy(base, p->base + column, columns * sizeof(float));
  for (size_t term = 0; term < p->terms; term += p->block) {
    size_t terms = smaller(p->block, p->terms - term);
    int adds = p->adds || term > 0;
    (p->turned ? kernels->pack_columns : kernels->pack_rows)(columns, terms, of_panel(p, column, term),
                                                             p->turned ? p->columns : p->terms, panel);
    Ask ask = next_panel(p, column, term, steps * (terms / EACH) + 1);
    for (size_t m = first; m < last; m += MOST_ROWS) {
      size_t rows = smaller(MOST_ROWS, last - m);
      float *y = p->y + m * p->columns + column;
      Tile tile = {terms, p->x + m * p->terms + term, p->terms, panel, y, p->columns, adds, &ask, NULL, 0, NULL, of_rows};
      if (term == 0) {
        tile.base = base, tile.rank = p->rank, tile.states = p->states + m * p->rank;
        for (size_t i = 0; p->rank && i < rows; i++) of_rows[i] = factors + p->tasks[m + i] * p->rank * width;
      }
      if (columns < width) tile.y = rest, tile.ldy = width, tile.adds = 0;
      kernels->tiles(rows, tile);
      for (size_t i = 0; columns < width && i < rows; i++) {
        for (size_t c = 0; c < columns; c++) {
          float sum = rest[i * width + c];
          y[i * p->columns + c] = adds ? y[i * p->columns + c] + sum : sum;
        }
      }
    }
  }
}

static void wide(Wide *p, size_t threads) {
  size_t blocks = (p->terms + TERMS - 1) / TERMS, panels = panels_of(p->columns);
  p->block = ((p->terms + blocks - 1) / blocks + 15) / 16 * 16;
  /* Few panels for many threads: rows are cut too. */
  p->parts = threads == 1 || panels % threads == 0 ? 1 : (4 * threads + panels - 1) / panels;
  p->parts = smaller(p->parts, p->rows < FEWEST ? 1 : p->rows / FEWEST);
  size_t pieces = panels * p->parts;
#pragma omp parallel for num_threads((int)threads) schedule(static)
  for (size_t i = 0; i < pieces; i++) {
    size_t k = i % p->parts;
    wide_panel(p, i / p->parts * kernels->panel, part(p->rows, MOST_ROWS, k, p->parts), part(p->rows, MOST_ROWS, k + 1, p->parts));
  }
}
