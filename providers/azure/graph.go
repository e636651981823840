package azure

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// graph calls see for each row that a query gives, over all pages. It notes why the rows are known not to be all.
func (v *visit) graph(ctx context.Context, kql string, see func(row) error) error {
	request := armresourcegraph.QueryRequest{Query: &kql, Options: &armresourcegraph.QueryRequestOptions{
		Top: to.Ptr(int32(pageSize)), ResultFormat: to.Ptr(armresourcegraph.ResultFormatObjectArray)}}
	if v.cfg.ManagementGroup != "" {
		request.ManagementGroups = []*string{&v.cfg.ManagementGroup}
		request.Options.AllowPartialScopes = to.Ptr(true) // what there is, and a header that says so: better than nothing
	} else {
		request.Subscriptions = to.SliceOfPtrs(v.cfg.Subscriptions...)
	}
	var rows, total int64 = 0, -1
	changed := false
	return poll.Pages(func(token string) (string, error) {
		if token != "" {
			request.Options.SkipToken = &token
		}
		out, header, err := call(ctx, &v.spend, actionGraph, func(ctx context.Context) (armresourcegraph.ClientResourcesResponse, error) {
			return v.query(ctx, request, nil)
		})
		if err != nil {
			return "", err
		}
		data, ok := out.Data.([]any)
		if !ok {
			return "", fmt.Errorf("read the answer of Resource Graph: its data is %T, not a list", out.Data)
		}
		for _, d := range data {
			r, _ := d.(map[string]any) // of anything else the row has no ID
			if err := see(r); err != nil {
				return "", err
			}
		}
		rows += int64(len(data))
		if out.TotalRecords != nil {
			changed = changed || total >= 0 && total != *out.TotalRecords
			total = *out.TotalRecords
		}
		if header.Get("x-ms-tenant-subscription-limit-hit") == "true" {
			v.Missing(errors.New("there are more subscriptions than Resource Graph looks at: name some, or a smaller management group"))
		}
		if value(out.SkipToken) == "" {
			truncated := out.ResultTruncated != nil && *out.ResultTruncated == armresourcegraph.ResultTruncatedTrue
			switch {
			case truncated:
				v.Missing(fmt.Errorf("Resource Graph has cut the answer after %d rows", rows))
			case changed || total >= 0 && rows < total:
				// Pages are counted off from the start: a row that goes away moves one of the next page to a page that was read.
				v.Missing(fmt.Errorf("the resources have changed while they were listed: %d rows of %d", rows, total))
			}
		}
		return value(out.SkipToken), nil
	})
}

// row is a row of an answer. What it lacks is the zero value.
type row map[string]any

func (r row) text(key string) string { return text(r[key]) }

func (r row) list(key string) []any { l, _ := r[key].([]any); return l }

// texts adds the strings of a bag of strings to into.
func (r row) texts(key string, into map[string]string) {
	bag, _ := r[key].(map[string]any)
	for k, v := range bag {
		into[k] = text(v)
	}
}

// at returns what is found in a value along keys: at(v, "properties", "subnet", "id").
func at(v any, keys ...string) any {
	for _, k := range keys {
		bag, _ := v.(map[string]any)
		v = bag[k]
	}
	return v
}

// text returns a string, and a number or a truth as one.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}
