package when

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"weak"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// MaxLength is how many octets an expression may have. Longer ones are several intentions.
	MaxLength = federation.MaxWhen

	// MaxCost is what one evaluation may cost, in the units of the library: about one for each step and for each ten octets that are looked
	// at. What people write costs 10 to 100, and takes one or two microseconds; the worst that is admitted takes three milliseconds, with a
	// request that was made for it.
	MaxCost = 10_000
)

// Expression is a compiled expression. It is immutable and safe for any number of goroutines.
type Expression struct {
	text    string
	program cel.Program
	tokens  bool
}

// compiled holds weak.Pointers to expressions by their text. Each view compiles all intentions anew, and to read an expression takes as
// long as a thousand of them; what the view in force holds is found here.
var compiled sync.Map

// Compile reads text. The error is a *federation.Diagnostic that names the place, what is wrong there, and what to write.
func Compile(text string) (*Expression, error) {
	if known, found := compiled.Load(text); found {
		if e := known.(weak.Pointer[Expression]).Value(); e != nil { //nolint:forcetypeassert // nothing else is stored
			return e, nil
		}
	}
	e, err := compile(text)
	if err != nil {
		return nil, err
	}
	mine := weak.Make(e)
	compiled.Store(text, mine)
	runtime.AddCleanup(e, func(text string) { compiled.CompareAndDelete(text, mine) }, text)
	return e, nil
}

func compile(text string) (*Expression, error) {
	if len(text) > MaxLength {
		return nil, mistake(fmt.Sprintf("it has %d octets: at most %d are allowed", len(text), MaxLength), "make it several intentions")
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("set up expressions: %w", err)
	}
	tree, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, worded(issues)
	}
	if t := tree.OutputType(); !t.IsExactType(cel.BoolType) {
		fix := `write a condition, such as: request.method == "GET"`
		if t.IsExactType(cel.DynType) {
			fix = "a claim can be of any type: compare it, as in token.claims.admin == true"
		}
		return nil, mistake(fmt.Sprintf("it is of type %s, not bool", t), fix)
	}
	estimate, err := env.EstimateCost(tree, sizes{})
	if err != nil {
		return nil, fmt.Errorf("weigh the expression: %w", err)
	}
	if estimate.Max > MaxCost {
		return nil, mistake(fmt.Sprintf("it can cost %s with a large request: at most %d are allowed", units(estimate.Max), MaxCost),
			"compare before you search, search less text, and put no exists or all into another")
	}
	program, err := env.Program(tree, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(MaxCost))
	if err != nil { // a constant that can be seen to fail
		return nil, mistake(printable(err.Error()), "")
	}
	return &Expression{text: text, program: program, tokens: mentions(tree, "token.")}, nil
}

func units(n uint64) string {
	if n > 1e9 {
		return "more than a billion units"
	}
	return strconv.FormatUint(n, 10) + " units"
}

// String is e as it was written.
func (e *Expression) String() string { return e.text }

// Tokens reports whether e asks for the token of a request.
func (e *Expression) Tokens() bool { return e.tokens }

// Holds evaluates e for c. With an error, which is one line and safe to print, e is neither true nor false.
func (e *Expression) Holds(c *Call) (bool, error) {
	value, _, err := e.program.Eval(c)
	if err == nil {
		return value == types.True, nil
	}
	var stopped interpreter.EvalCancelledError
	if errors.As(err, &stopped) {
		return false, fmt.Errorf("it costs more than %d units", MaxCost)
	}
	return false, errors.New(printable(err.Error()))
}
