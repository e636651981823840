package when

import (
	"encoding/json"
	"maps"
	"math"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// variables are what an expression can ask for, in the order in which they are offered.
var variables = []struct {
	name string
	of   *cel.Type
}{
	{"request.method", cel.StringType},
	{"request.host", cel.StringType},
	{"request.path", cel.StringType},
	{"request.query", cel.MapType(cel.StringType, cel.StringType)},
	{"request.headers", cel.MapType(cel.StringType, cel.StringType)},
	{"source.identity", cel.StringType},
	{"source.namespace", cel.StringType},
	{"source.service", cel.StringType},
	{"source.region", cel.StringType},
	{"destination.namespace", cel.StringType},
	{"destination.service", cel.StringType},
	{"destination.region", cel.StringType},
	{"token.issuer", cel.StringType},
	{"token.claims", cel.MapType(cel.StringType, cel.DynType)},
}

// timeless are the ways into time. Without them no timestamp comes to be, and the time zones of the host are never read.
var timeless = []string{overloads.TypeConvertTimestamp, overloads.TypeConvertDuration}

const (
	maxNesting = 32   // of parentheses and calls; the reader's stack grows with it
	maxNodes   = 2000 // of the tree, macros written out
	maxPattern = 256  // instructions of a regular expression: what it costs grows with them, and is charged when it is over
	maxValue   = 4096 // octets of a value of a request, for the same reason; browsers and servers take 8 KiB of all fields together
)

var environment = sync.OnceValues(func() (*cel.Env, error) {
	library := env.NewLibrarySubset().AddIncludedMacros("has", "all", "exists", "exists_one")
	for _, name := range timeless {
		library.AddExcludedFunctions(&env.Function{Name: name})
	}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(library)),
		cel.CustomTypeAdapter(claimAdapter{types.DefaultTypeAdapter}),
		cel.CrossTypeNumericComparisons(true), // a claim is an int or a double as its issuer writes it
		cel.ParserExpressionSizeLimit(MaxLength),
		cel.ParserRecursionLimit(maxNesting),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxPattern),
		cel.ASTValidators(cel.ValidateRegexLiterals(), constantPatterns{}),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.of))
	}
	return cel.NewCustomEnv(options...)
})

// constantPatterns refuses a regular expression that is not written out: it would be compiled with each request, and a caller could
// write it.
type constantPatterns struct{}

func (constantPatterns) Name() string { return "tradewind.constant_patterns" }

func (constantPatterns) Validate(_ *cel.Env, _ cel.ValidatorConfig, tree *ast.AST, issues *cel.Issues) {
	for _, call := range ast.MatchDescendants(ast.NavigateAST(tree), ast.FunctionMatcher(overloads.Matches)) {
		args := call.AsCall().Args()
		if pattern := args[len(args)-1]; pattern.Kind() != ast.LiteralKind {
			issues.ReportErrorAtID(pattern.ID(), "the pattern of matches is not written out")
		}
	}
}

// mentions reports whether tree asks for a variable whose name starts with prefix.
func mentions(tree *cel.Ast, prefix string) bool {
	return slices.ContainsFunc(ast.MatchDescendants(ast.NavigateAST(tree.NativeRep()), ast.KindMatcher(ast.IdentKind)),
		func(e ast.NavigableExpr) bool { return strings.HasPrefix(e.AsIdent(), prefix) })
}

// sizes says how large the parts of a large request are. They are no bounds: what a larger one costs is known when it comes.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	const deepest = 8 // claims within claims
	path := node.Path()
	if len(path) == 0 || len(path) > deepest || node.Type() == nil {
		return nil // the library knows what it has made itself
	}
	var most uint64
	switch node.Type().Kind() { //nolint:exhaustive // others have no size
	case types.StringKind, types.BytesKind:
		most = 1024
	case types.ListKind, types.MapKind:
		most = 64
	case types.DynKind: // a part of a claim: a token has at most 8 KiB
		most = 64
	default:
		return nil
	}
	return &cost.SizeEstimate{Max: most}
}

// EstimateCallCost implements cost.Estimator. The library takes a pattern to cost what its text is long: "(a?){0,40}" is short, and each
// octet is held against all of its 200 instructions.
func (s sizes) EstimateCallCost(function, _ string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	if function != overloads.Matches || len(args) == 0 {
		return nil
	}
	pattern, ok := args[len(args)-1].Expr().AsLiteral().(types.String)
	if !ok {
		return nil // refused for that
	}
	read, err := syntax.Parse(string(pattern), syntax.Perl)
	if err != nil {
		return nil // the same
	}
	program, err := syntax.Compile(read.Simplify())
	if err != nil {
		return nil // the same
	}
	text := args[0]
	if target != nil {
		text = *target
	}
	size := cost.FixedSizeEstimate(maxValue)
	if made := text.ComputedSize(); made != nil {
		size = *made
	} else if known := s.EstimateSize(text); known != nil {
		size = *known
	}
	const each = 0.1 // of a unit: a few nanoseconds
	return &cost.CallEstimate{CostEstimate: size.MultiplyByCostFactor(each * float64(len(program.Inst)))}
}

// claimAdapter makes values of what encoding/json decodes with UseNumber.
type claimAdapter struct{ types.Adapter }

// NativeToValue implements types.Adapter.
func (a claimAdapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return types.Int(n)
		}
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil || math.IsInf(f, 0) {
			return types.NewErr("number %s is out of range", printable(string(v)))
		}
		return types.Double(f)
	case map[string]any:
		return &object{types.NewStringInterfaceMap(a, v), v}
	case []any:
		return types.NewDynamicList(a, v)
	}
	return a.Adapter.NativeToValue(v)
}

// object is a claim of several parts. They are gone through in an order that is always the same, or what is spent until an answer is found
// would not be.
type object struct {
	traits.Mapper
	parts map[string]any
}

// Iterator implements traits.Iterable.
func (o *object) Iterator() traits.Iterator { return iterate(slices.Sorted(maps.Keys(o.parts))) }

func iterate(names []string) traits.Iterator {
	return types.NewStringList(types.DefaultTypeAdapter, names).Iterator()
}
